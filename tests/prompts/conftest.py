"""A small dataset with titles, and a small language model with random weights."""

import pytest

from recbole_msr.prompts.facts import Facts
from tests.prompts.small_data import WORDS, write_items


@pytest.fixture
def titled(tiny_data):
    """The data_path of "tiny" with titles, which load_col does not load."""
    write_items(tiny_data / "tiny")
    return tiny_data


@pytest.fixture
def make_train(titled, make_dataset):
    """make_train(**settings) -> the training split of "tiny" with titles."""

    def make(scenarios=3, **settings):
        load = {
            "inter": ["user_id", "item_id", "rating", "timestamp"],
            "user": ["user_id", "age"],
            "item": ["item_id", "class"],
        }
        return make_dataset(scenarios, load_col=settings.pop("load_col", load), **settings)[1]

    return make


@pytest.fixture
def facts(make_train):
    return Facts(make_train())


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """The folder of a Llama of 3 layers and width 32 with random weights, and a tokenizer trained on prompts."""
    pytest.importorskip("transformers", reason="needs the extra llm")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    corpus = [
        f'In the scenario "young" the user liked {n} of {n + 3} items: {w.title()} Saga (Drama, War).'
        for n, w in enumerate(WORDS)
    ]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
