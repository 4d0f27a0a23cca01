"""python -m train: train, validate, test, see everytoken.entry.train."""

from everytoken.entry.train import main

if __name__ == "__main__":
    main()
