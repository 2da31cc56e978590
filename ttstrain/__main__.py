"""`python -m ttstrain` is `ttstrain`."""

from ttstrain.cli.main import main

if __name__ == "__main__":
    main()
