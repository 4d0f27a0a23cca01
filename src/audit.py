"""python -m audit: proves the invariants, see everytoken.entry.audit."""

from everytoken.entry.audit import main

if __name__ == "__main__":
    main()
