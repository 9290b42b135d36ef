"""`python -m keras_imnet64 ...` is the console script `keras-imnet64 ...`."""

from keras_imnet64.cli import main

if __name__ == "__main__":
    main()
