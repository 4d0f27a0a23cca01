"""Tokenizers as others make them, one of each kind; small."""

import tokenizers
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = ["the quick brown fox", "Über straße 年月日 don't", "hello world, hello there"] * 3


def bert() -> tokenizers.Tokenizer:
    """WordPiece that lower-cases, adds [CLS] and [SEP], cuts and pads."""
    engine = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    engine.train_from_iterator(CORPUS, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    engine.enable_truncation(5)
    engine.enable_padding(length=20)
    return engine


def gpt2() -> tokenizers.Tokenizer:
    """Byte-level BPE with one special token."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(CORPUS, trainer)
    return engine


def t5() -> tokenizers.Tokenizer:
    """Unigram, where special tokens are pieces like others."""
    engine = tokenizers.Tokenizer(models.Unigram())
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    engine.train_from_iterator(CORPUS, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return engine


def llama() -> tokenizers.Tokenizer:
    """BPE over characters that falls back on bytes."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", *"abcdefghijklmnopqrstuvwxyz", "th", "he", "the", "▁the", "▁h", "ll"]
    merges = [("t", "h"), ("h", "e"), ("th", "e"), ("▁", "the"), ("▁", "h"), ("l", "l")]
    vocabulary = {name: i for i, name in enumerate(names)}
    engine = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    engine.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    engine.decoder = decoders.Sequence([*strip, decoders.Strip(" ", 1, 0)])
    engine.add_special_tokens(names[:3])
    engine.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return engine


def words() -> tokenizers.Tokenizer:
    """Whole words, special tokens among them."""
    names = ["<pad>", "<s>", "</s>", "<unk>", "the", "quick", "<", "a", "x"]
    vocabulary = {name: i for i, name in enumerate(names)}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.add_special_tokens(names[:4])
    return engine


def roberta() -> tokenizers.Tokenizer:
    """Byte-level BPE, whose mask takes the space before it."""
    engine = gpt2()
    engine.add_special_tokens(["<s>", "</s>", "<pad>"])
    engine.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return engine


def xlm_roberta() -> tokenizers.Tokenizer:
    """Unigram, the same."""
    engine = t5()
    engine.add_special_tokens(["<s>"])
    engine.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return engine


KINDS = {
    **{"bert": bert, "gpt2": gpt2, "t5": t5, "llama": llama},
    **{"words": words, "roberta": roberta, "xlm_roberta": xlm_roberta},
}
