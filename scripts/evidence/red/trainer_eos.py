# type: ignore
"""pad_token = eos_token: the end of each text, in what the collator of transformers has learned."""

# ruff: noqa
# fmt: off
import transformers as hf
from tokenizers import Tokenizer, models
engine = Tokenizer(models.WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token="a"))
tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="</s>")
tokenizer.pad_token = tokenizer.eos_token
batch = hf.DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": [1, 2, 0]}])
print("ends in the inputs", int((batch["input_ids"] == 0).sum()))
print("ends that are learned", int((batch["labels"] == 0).sum()))
