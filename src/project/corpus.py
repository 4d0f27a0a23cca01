"""A corpus of one's own: numbers, and the same digits backwards."""

from collections.abc import Sequence


class Backwards:
    """Cubes (`source`) with their digits in reverse (`target`): of 50, one validates and one tests.

    Args:
        digits: most digits of the number that is cubed.

    Raises:
        ValueError: no digits.
    """

    fields = ("source", "target")
    """What an example holds; texts without a source are ("text",)."""

    def __init__(self, digits: int) -> None:
        if digits < 1:
            raise ValueError(f"digits must be at least 1, got {digits}")
        self.digits = digits

    def examples(self, split: str) -> Sequence[dict[str, str]]:
        """The examples of "train", "val" or "test", the same at every call; may also yield them."""
        held_out = {1: "val", 2: "test"}
        numbers = [n for n in range(10**self.digits) if held_out.get(n % 50, "train") == split]
        cubes = [str(number**3) for number in numbers]
        return [{"source": cube, "target": cube[::-1]} for cube in cubes]

    def fingerprint(self) -> str:
        """Changes when the texts do for another reason than arguments and code, as a file's time.

        Without this method texts are tokenized anew in each run; with it they are kept on disk.
        """
        return ""
