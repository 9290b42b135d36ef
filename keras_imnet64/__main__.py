"""Runs the command line: `python -m keras_imnet64 ...` is `keras-imnet64 ...`."""

from keras_imnet64.cli import main

if __name__ == "__main__":
    main()
