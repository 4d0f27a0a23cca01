"""python -m eval: exact metrics of a checkpoint, see everytoken.entry.eval."""

from everytoken.entry.eval import main

if __name__ == "__main__":
    main()
