"""The `bothways` command: one thin file a command; errors become one line and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from cyclopts import App, CycloptsError, UnknownOptionError

from bothways import __version__
from bothways.cli.kinds import check_fractions, told
from bothways.cli.output import StandardOutputError, told_apart
from bothways.errors import (
    AssumedPoolingWarning,
    BorrowedRulesWarning,
    BothwaysError,
    TruncationWarning,
    UnreadSettingsWarning,
)

__all__ = ["app", "main"]

# Commands are imported when they are called, so that what stands above their flags stands here.
EVALUATE = (
    "How good a model's answers are; --probe: what an encoder knows.\n\n"
    "The model's head says what is asked of the rows: labels of texts, tags of words, answers to questions, or the "
    "right one of several choices. It prints metrics, how good each label is, whether scores can be trusted, and "
    "thresholds that would do better; --output keeps all that in a folder, with pictures and the worst mistakes. Of a "
    "model that writes, such as translations, it prints the loss of the right texts, and BLEU, chrF and ROUGE of its "
    "own.\n\n"
    "With --probe, a linear model learns the labels from the frozen hidden states of an encoder."
)
PREDICT = (
    "A model's answers to the rows of a file of any size, resumably.\n\n"
    "A line each, in their order: the row's number, from 1, and the answer, in the shape that pipelines give. Lines "
    "are written to OUTPUT.partial some at a time; after Ctrl-C, or when the process was killed, --resume goes on from "
    "there, and the file becomes the same, byte for byte."
)

app = App(
    name="bothways",
    help="The whole life of a bidirectional encoder (BERT and its family): padding-free and exact.",
    help_epilogue="Add --debug to any command to see where an error comes from.",
    version=__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    config=check_fractions,
)
app.command("bothways.cli.demo:demo", help="Search the Python manual, offline: the main job on real text.")
app.command("bothways.cli.embed:embed", help="Texts to vectors.")
app.command("bothways.cli.similarity:similarity", help="How alike texts are.")
app.command("bothways.cli.fill_mask:fill_mask", name="fill-mask", help="The likeliest words for each [MASK].")
app.command("bothways.cli.tag:tag", help="Entities in texts: names, places and whatever a model has labels for.")
app.command("bothways.cli.answer:answer", help="Where in a text the answer to a question is.")
app.command("bothways.cli.classify:classify", help="The labels of texts, by a model trained for them.")
app.command("bothways.cli.choose:choose", help="Which of several choices answers a question best.")
app.command(
    "bothways.cli.generate:generate", help="Texts that a model writes: translations, summaries, what comes next."
)
app.command("bothways.cli.inspect:inspect", help="What a model sees in a text: tokens, attention, what objectives ask.")
app.command("bothways.cli.tokenizer:app", name="tokenizer", help="Train a tokenizer on text.")
app.command("bothways.cli.corpus:app", name="corpus", help="Text to shards of tokens, for pretraining.")
app.command("bothways.cli.data:app", name="data", help="What a file of labelled rows holds.")
app.command("bothways.cli.recipes:recipes", help="Settings of whole pretraining runs by name, as papers have them.")
app.command("bothways.cli.plan:plan", help="What a pretraining run will take: memory, operations, time.")
app.command("bothways.cli.pretrain:app", name="pretrain", help="Train an encoder on a corpus, resumably.")
app.command(
    "bothways.cli.finetune:app", name="finetune", help="Train a model to answer or to write, from rows, resumably."
)
app.command("bothways.cli.compare:compare", help="Runs side by side: a table, and their curves.")
app.command("bothways.cli.evaluate:evaluate", help=EVALUATE)
app.command("bothways.cli.predict:predict", help=PREDICT)
app.command("bothways.cli.convert:convert", help="Turn a pickled checkpoint into safetensors.")
app.command(
    "bothways.cli.families:families", help="The sizes of encoders known by name; --measure how fast they run here."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 wrong usage or bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console that knows few letters shows escapes
    try:
        with warnings.catch_warnings(), told_apart():
            for kind in (AssumedPoolingWarning, BorrowedRulesWarning, TruncationWarning, UnreadSettingsWarning):
                warnings.simplefilter("always", kind)
            warnings.showwarning = _show_warning
            app([word for word in words if word != "--debug"], exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except (BothwaysError, CycloptsError) as error:
        if debug:
            raise
        _fail(_one_line(error), 2)
    except (MemoryError, RuntimeError) as error:
        if debug or not _out_of_memory(error):
            raise
        _fail("out of memory; give fewer --batch-tokens or, to write, --num-beams; or --precision bf16", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except StandardOutputError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not error.closed:  # a reader that has gone has what it wanted
            _fail(str(error), 2)
    except OSError as error:
        if debug:
            raise
        _fail(_cause(error), 2)


def _out_of_memory(error: Exception) -> bool:
    """Whether it is Python's, that of a GPU, or that of torch on a CPU, which has no type of its own."""
    own = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return own or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _one_line(error: Exception) -> str:
    hint = " (put -- before texts that start with a dash)" if isinstance(error, UnknownOptionError) else ""
    return (told(error) if isinstance(error, CycloptsError) else str(error)) + hint


def _cause(error: OSError) -> str:
    """The file and what is wrong with it; or what the system said, where it names none."""
    if error.filename is None:
        return f"{error.strerror or error} (--debug shows where)"
    return " ".join(f"{error.filename}: {error.strerror}".splitlines())


def _fail(message: str, code: int) -> None:
    print(f"bothways: {message}", file=sys.stderr)
    sys.exit(code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"bothways: warning: {message}", file=sys.stderr)
