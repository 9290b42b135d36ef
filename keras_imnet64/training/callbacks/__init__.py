"""What happens around the steps of Keras' loop, one concern in each module.

Keras calls two callbacks of ours: `hooks.Hooks`, whose methods state the order in which the
concerns take their turns, and the progress bar, which runs beside the steps.
"""
