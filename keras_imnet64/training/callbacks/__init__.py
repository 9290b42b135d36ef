"""What happens around the training steps, one concern in each module.

Keras calls two of our callbacks: `trainer.Hooks`, which calls the other modules in a fixed order,
and the progress bar, which runs beside the steps.
"""
