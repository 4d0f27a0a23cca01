"""python -m compare: runs laid over each other, see everytoken.entry.compare."""

from everytoken.entry.compare import main

if __name__ == "__main__":
    main()
