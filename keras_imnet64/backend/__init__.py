"""The backend and its devices, chosen before Keras is imported; settings that change numbers."""
