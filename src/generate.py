"""python -m generate: text in, text out, see everytoken.entry.generate."""

from everytoken.entry.generate import main

if __name__ == "__main__":
    main()
