"""`python -m binderclip`: the command line, for `torchrun -m binderclip train ...`."""

from binderclip.cli import main

if __name__ == "__main__":
    main()
