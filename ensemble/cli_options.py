"""Every command with its options, their values and its help: the one place where they are defined. Imports
nothing slow."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import Any, NoReturn, get_args

from ensemble.blending.options import METHOD_WORDS, Calibration, LabelForm, Select, When
from ensemble.cli_values import fold_list, gpu_list, interval, natural, positive, positive_or_auto, seed_words
from ensemble.engine import ENGINES
from ensemble.errors import InputError
from ensemble.recipe.transforms import POLICIES as VIEW_POLICIES
from ensemble.tuning.choices import POLICIES, POLICIES_HELP, SAMPLERS, SAMPLERS_HELP

_MOST_MEANT = 3  # suggestions of keys for a word: of more, none is likelier than the others
_WATCH_S = 2.0  # as `watch` does: a look at 1,000 runs takes 0.12 s


class CommandParser(argparse.ArgumentParser):
    """argparse, with errors as `InputError` and a suggestion where a word is nearly right."""

    def error(self, message: str) -> NoReturn:
        verb = self.prog.split()
        if "invalid choice" in message and "COMMAND" in message:
            word = message.split("'")[1]
            close = difflib.get_close_matches(word, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
            message = f"{word} is not a command; {hint}"
        elif message.startswith("unrecognized arguments:"):
            message = self._unknown_words(message.split(": ", 1)[1].split())
        elif "invalid choice" in message:
            option, _, rest = message.removeprefix("argument ").partition(": ")
            word, _, choices = rest.partition(" (choose from ")
            message = f"{option} {word.split(': ')[1]}: not one of {choices.rstrip(')')}"
        raise InputError(f"{' '.join(verb)}: {message}; {' '.join(verb)} --help explains")

    def _unknown_words(self, words: list[str]) -> str:
        """What is wrong with words that nobody asked for; the first is told."""
        word, equals, value = words[0].partition("=")
        value = value if equals or words[1:2] == [] or words[1].startswith("-") else words[1]
        keys = _recipe_keys(word.lstrip("-")) if "--set" in self._option_string_actions else []
        meant = " or ".join(f"--set {key}={value or 'VALUE'}" for key in keys)
        if not word.startswith("-"):
            if equals and meant:
                return f"{words[0]!r} stands alone; did you mean {meant}?"
            named = [option for option in self._option_string_actions if option in ("--recipe", "--name")]
            return f"{word!r} stands alone" + (f"; did you mean {named[0]} {word}?" if named else "")
        close = difflib.get_close_matches(word, self._option_string_actions, n=1)
        meant = meant or (close[0] if close else "")
        return f"{word} is not an option" + (f"; did you mean {meant}?" if meant else "")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Let the command's own parser complain of what it does not know, so that its options are suggested."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog != "ens":
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def _recipe_keys(word: str) -> list[str]:
    """The keys of a recipe that a word names: `epochs` or `train.epochs`; `batch-size` as `train.batch_size`."""
    from ensemble.core.schema import leaf_keys  # pydantic takes 60 ms, which only this mistake has to pay
    from ensemble.recipe.recipe import SHORT_FORMS, Recipe

    word = word.replace("-", "_")
    if (word,) in SHORT_FORMS or word in leaf_keys(Recipe):
        return [word]
    keys = [key for key in leaf_keys(Recipe) if key.rpartition(".")[2] == word or key == f"{word}.name"]
    return keys if len(keys) <= _MOST_MEANT else []


def add_global_options(parser: argparse.ArgumentParser) -> None:
    """Options that may stand before or after the verb; an absent one must not overwrite what the other place set."""
    option = parser.add_argument_group("options of every command").add_argument
    absent = argparse.SUPPRESS  # else the default after the verb overwrites what stood before it
    option("--outputs", default=absent, metavar="DIR", help="where results go (default: ENS_OUTPUTS, else outputs)")
    option("-C", dest="directory", default=absent, metavar="DIR", help="run as if started in DIR")
    option("--json", action="store_true", default=absent, help="print one JSON document, and nothing else")
    option("--quiet", action="store_true", default=absent, help="no progress on the screen")


def _recipe_options(command: argparse.ArgumentParser, *, several: bool = False) -> None:
    option = command.add_argument
    if several:
        option(
            "--recipe",
            metavar="R",
            action="append",
            help="a recipe's name or path, or a pattern such as 'mine_*'; may be given several times, then all share "
            "one queue (default: the newest run's, else quickstart)",
        )
    else:
        option("--recipe", metavar="R", help="a recipe's name or path (default: the newest run's, else quickstart)")
    option(
        "--set",
        dest="sets",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a value of the recipe; may be given several times",
    )
    option(
        "--data",
        metavar="D",
        help="a dataset's name, NAME=PATH to say where its files lie, or a folder of images, which is recognised",
    )


def _workplace_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "--workers",
        type=positive,
        metavar="N",
        help="folds at a time (default: --per-gpu on each GPU, else one a core)",
    )
    option(
        "--gpus",
        type=gpu_list,
        default="auto",
        metavar="0,1",
        help="GPUs to use, by number or UUID as nvidia-smi gives them, or none; auto: those with free memory (default)",
    )
    option(
        "--per-gpu",
        type=positive_or_auto,
        metavar="N",
        help="folds at a time on each GPU, or auto: as many as a measured training step leaves room for (default: 1)",
    )
    option(
        "--hang-timeout",
        type=positive,
        metavar="S",
        help="a fold that shows no sign of life for S seconds is killed and retried (default: ENS_HANG_S, else 600)",
    )
    option("--allow-code", action="store_true", help="run code that a recipe from outside this directory names")
    _engine_option(option)
    option(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what each job of --engine slurm asks for, as `sbatch --KEY=VALUE`: partition, time, mem, gpus, "
        "cpus-per-task …; again for more (ENS_SLURM holds several)",
    )


def _engine_option(option: Callable[..., object]) -> None:
    texts = "; ".join(f"{name}: {text}" for name, (_, text) in ENGINES.items())
    option("--engine", choices=list(ENGINES), default=next(iter(ENGINES)), help=texts)


def _init_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("images", metavar="DIR", help="a folder of images, with or without tables; or its CSV table of labels")
    option("--name", metavar="N", help="name of the dataset and the recipe (default: the folder's)")
    option(
        "--label",
        metavar="C",
        help="the column of classes, or several columns of 0 and 1 as a,b,c; without a table a template such as "
        "{file.folder}",
    )
    option("--id", metavar="C", help="the column of ids, or a template")
    option("--group", metavar="C", help="the column of what stays on one side of a split, as a patient, or none")
    option("--test", metavar="X", help="the folder or table of test rows, below DIR, or none")


def _train_options(command: argparse.ArgumentParser) -> None:
    _recipe_options(command, several=True)
    _workplace_options(command)
    option = command.add_argument
    option("--folds", type=fold_list, metavar="0,2", help="train these folds only")
    option(
        "--seeds",
        type=seed_words,
        metavar="N",
        help="train N seeds from the recipe's own on, or those of a list such as 0,1,7, as runs R, R-s1, R-s2 "
        "(default: the recipe's)",
    )
    option("--name", metavar="RUN", help="name of the one run's folder (default: the recipe's name)")
    option(
        "--detach",
        action="store_true",
        help="with --engine slurm: end once all folds are sent; the same command without it takes them up",
    )
    option("--fresh", action="store_true", help="move an existing run of this name aside and start anew")
    option(
        "--log",
        metavar="WHERE",
        help="log epochs to tensorboard, wandb or both (tensorboard,wandb) besides history.csv (default: ENS_LOG)",
    )


def _tune_options(command: argparse.ArgumentParser) -> None:
    _recipe_options(command)
    _workplace_options(command)
    option = command.add_argument
    option("--trials", type=positive, metavar="N", help="number of trials in all")
    option("--more", type=positive, metavar="N", help="instead of --trials: trials to add to those there are")
    option("--study", metavar="S", help="name of the study's folder (default: the recipe's name)")
    option("--timeout", type=positive, metavar="S", help="start no new trial after this many seconds")
    option("--patience", type=positive, metavar="N", help="start no new trial after N in a row without a gain")
    _listed(
        option,
        "--search",
        "searches",
        "KEY=RANGE",
        "search this key too, as train.lr='{low: 1e-4, high: 1e-2, log: true}' or augment='[none, light]'",
    )
    option(
        "--sampler",
        choices=list(SAMPLERS),
        default="tpe",
        help=f"how values are proposed (default: tpe). {SAMPLERS_HELP}",
    )
    option(
        "--policy",
        choices=list(POLICIES),
        default="race",
        help=f"which trials stop early (default: race). {POLICIES_HELP}",
    )
    option("--seed", type=natural, default=0, metavar="N", help="seed of the sampler (default: 0)")
    _listed(option, "--point", "points", "KEY=VALUE,…", "values to try first")
    _listed(option, "--warm-from", "warm_from", "STUDY", "let the sampler learn from the trials of another study")
    option(
        "--nested",
        action="store_true",
        help="instead of training the best trial again: score each fold by the trial that was best on the others",
    )
    option("--no-rescore", action="store_true", help="don't train the best trial again on other folds at the end")
    option("--storage", metavar="URL", help="copy the study to an Optuna storage, for its dashboard")


def _listed(option: Callable[..., object], name: str, dest: str, metavar: str, text: str) -> None:
    """An option that may be given several times."""
    option(name, dest=dest, metavar=metavar, action="append", default=[], help=f"{text}; may be given several times")


def _predict_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "run",
        metavar="RUN",
        help="a finished run, a blend or a pack: its folder, its name in outputs, or a pack's .zip",
    )
    option(
        "--images",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="predict these: a folder, a CSV file with ids and paths, or files (default: the run's own rows again)",
    )
    option(
        "--tta",
        metavar="POLICY",
        help=f"other views than the run's: {', '.join(VIEW_POLICIES)}; auto: what scores best on the out-of-fold rows",
    )
    option("--tta-study", action="store_true", help="score every policy on the out-of-fold rows, and change nothing")
    option("--folds", type=fold_list, metavar="0,2", help="new images: with the networks of these folds only")
    option("--out", metavar="DIR", help="new images: where the files go (default: RUN/predicted/SOURCE)")
    option("--top", type=positive, default=1, metavar="N", help="new images: the N likeliest classes (default: 1)")
    option(
        "--bad-images",
        choices=["error", "prior"],
        default="error",
        help="new images that can't be read: error lists them; prior gives them the class shares of the training rows",
    )
    option(
        "--precision",
        choices=["fp32", "bf16"],
        default="fp32",
        help="new images: bf16 is faster where the machine has it, and differs in the third digit",
    )
    option("--workers", type=positive, metavar="N", help="the run's own rows: folds at a time")
    option("--allow-code", action="store_true", help="run the code that a run from elsewhere brings with it")
    _engine_option(option)


def _pack_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("source", metavar="BLEND_OR_RUN", help="a blend or a finished run: its folder, or its name in outputs")
    option("--out", required=True, metavar="F", help="a new folder, or a new file that ends in .zip")
    option("--allow-code", action="store_true", help="pack the code of a network that recipes/ does not hold, too")


def _blend_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "probs",
        nargs="+",
        metavar="PROBS",
        help="probability files of test rows (of out-of-fold rows where there are none), or folders of runs or studies",
    )
    default, *others, last = METHOD_WORDS
    option("--method", default=default, metavar="M", help=f"{default} (default), {', '.join(others)} or {last}")
    option("--metric", metavar="M", help="the score that decides (default: the members' own)")
    option("--weights", metavar="RUN=W,…", help="the members' weights, for --method weighted")
    option(
        "--calibrate",
        choices=["none", *get_args(Calibration)],
        default="none",
        help="calibrate probabilities: by one temperature, or by a slope and an offset a class",
    )
    option(
        "--calibrate-when",
        choices=[*get_args(When)],
        default="after",
        help="calibrate each member before blending, or the blend after it (default: after)",
    )
    option(
        "--tune-classes",
        action="store_true",
        help="learn decisions for the metric: class multipliers, or cuts of ordered classes",
    )
    option(
        "--select",
        choices=[*get_args(Select)],
        default="useful",
        help="useful: leave out near copies, leaks, blends in disguise and members that do harm; all: keep them "
        "(default: useful)",
    )
    option(
        "--max-cost", metavar="2x", help="twice the time of the best single member; a bare number: s per 1000 images"
    )
    option("--force", action="store_true", help="use what was learned even where it is no better than the plain mean")
    option("--cautious", action="store_true", help="use what was learned only where its gain over the mean is evident")
    option(
        "--other-folds",
        action="store_true",
        help="blend members of different fold plans, though the score is then slightly optimistic",
    )
    option("--name", metavar="B", help="name of the blend's folder (default: from the method and the members)")
    option("--template", metavar="F", help="a sample submission, whose rows, order and columns are followed")
    option(
        "--labels",
        choices=[*get_args(LabelForm)],
        help="answer with class names or numbers (default: the dataset's way)",
    )
    option("--out", metavar="F", help="write the submission to this file too")
    option("--compare", metavar="OLD.csv", help="list the rows whose answer differs from this submission")
    _renormalize_option(option)


def _score_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("scored", nargs="+", metavar="RUN", help="runs, blends, studies (names or folders), or files of test rows")
    option(
        "--data", metavar="D", help="dataset that names the labels, NAME=PATH, or a folder (default: the files' own)"
    )
    option("--labels", metavar="F", help="a .csv with ids and labels, in place of those that the dataset names")
    option("--metric", metavar="M", help="the score that ranks (default: the files' own)")


def _compare_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "compared",
        nargs="+",
        metavar="RUN",
        help="runs, trials (study/trial-3) or blends, the first being what the others are compared with; R,R-s1 names "
        "trainings of one recipe",
    )
    option("--metric", metavar="M", help="the score that is compared (default: the one they agree on)")
    option("--out", metavar="F", help="write the rows that became right or wrong to this .csv")


def _labels_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("reviewed", nargs="+", metavar="RUN", help="runs or blends (names or folders), or oof.npy files; the mean")
    option("--out", metavar="F", help="write what is listed to this new .csv, from which you make corrections")
    option(
        "--rescore",
        metavar="F",
        help="instead: score by the labels that this .csv corrects, and say whether the order survives",
    )
    option("--metric", metavar="M", help="with --rescore: the score (default: the runs' own)")


def _adopt_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("files", nargs="+", metavar="FILE", help="bare .npy files, CSV tables of probabilities, or folders of them")
    option("--ids", metavar="F", help="the rows' ids in order: one a line, or a .csv with an id column")
    option("--classes", metavar="F", help="the columns' classes in order: one a line, or the header of a .csv")
    option("--kind", choices=["test", "oof"], help="which rows these are (default: oof with --labels or --folds)")
    option("--labels", metavar="F", help="a .csv with the columns id and label, for out-of-fold rows")
    option(
        "--folds", metavar="F", help="a .csv with the columns id and fold, or a plan of outputs/folds, which has both"
    )
    option("--run", metavar="NAME", help="the model's name (default: from the file's name)")
    option("--out", metavar="STEM", help="write it here, a folder for several files (default: beside the file given)")
    option("--multilabel", action="store_true", help="a row may have several classes: each is a probability by itself")
    _renormalize_option(option)


def _renormalize_option(option: Callable[..., object]) -> None:
    option("--renormalize", action="store_true", help="divide rows that do not sum to 1 by their sum; says how many")


def _folds_options(command: argparse.ArgumentParser) -> None:
    _recipe_options(command)
    _all_option(command)


def _all_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--all", action="store_true", help="list every row of each finding, not only five examples")


def _eda_options(command: argparse.ArgumentParser) -> None:
    _recipe_options(command)
    option = command.add_argument
    _all_option(command)
    option("--out", metavar="DIR", help="write tables (CSV) and figures (SVG) into this folder")
    option("--augment", action="store_true", help="draw a contact sheet of augmented images, augment.png")


def _report_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option(
        "reported",
        nargs="*",
        metavar="NAME",
        help="a run, study, blend, dataset or folder of images; several runs or blends are compared; none: an index",
    )
    option("--out", metavar="F", help="the page's file (default: outputs/reports/NAME.html)")
    option("--thumbnails", type=int, default=200, metavar="N", help="at most N pictures on the page (default: 200)")
    option("--open", action="store_true", help="show the page in a browser")
    option("--live", action="store_true", help="write the page anew as epochs arrive, until training ends")


def _status_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("where", nargs="?", metavar="OUTPUTS", help="the outputs folder to look at (default: outputs)")
    option(
        "--watch",
        nargs="?",
        type=interval,
        const=_WATCH_S,
        metavar="SECONDS",
        help="look again every so many seconds (default: 2) until Ctrl+C, with exit code 0; redrawn in place on a "
        "terminal, else printed where something has changed; with --json a document a line",
    )
    option("--until-done", action="store_true", help="with --watch: end when no run or study is running any more")


def _recipes_options(command: argparse.ArgumentParser) -> None:
    option = command.add_argument
    option("recipe_name", nargs="?", metavar="NAME", help="show this recipe, resolved, with where each value is from")
    option("--schema", action="store_true", help="print the JSON schema of recipes, for editors")


def _no_options(command: argparse.ArgumentParser) -> None:
    """A command without options of its own."""


COMMANDS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "init": (
        "look at a folder of images, and write a dataset's description and a recipe for it",
        "ens init data/leaves --label species",
        _init_options,
    ),
    "train": (
        "train every fold of a recipe, resumed where it stopped; then out-of-fold and test probabilities",
        "ens train --recipe r50_kfold5 --set train.lr=3e-4",
        _train_options,
    ),
    "tune": (
        "search the recipe's search space; ends with a ready recipe, outputs/studies/STUDY/best.yaml",
        "ens tune --recipe quickstart --trials 20",
        _tune_options,
    ),
    "predict": (
        "probabilities for new images from a run, a blend or a pack; without images, for a run's own rows again",
        "ens predict quickstart --images new/ --top 3",
        _predict_options,
    ),
    "blend": (
        "combine probability files into a submission, and say what the blend is worth",
        "ens blend outputs/*/probs.npy",
        _blend_options,
    ),
    "pack": (
        "copy all that prediction needs of a blend or run into one folder or .zip, for another machine",
        "ens pack outputs/blends/auto-3 --out digits.zip",
        _pack_options,
    ),
    "score": (
        "test probabilities against labels that were kept apart, beside what the out-of-fold rows promised",
        "ens score quickstart",
        _score_options,
    ),
    "compare": (
        "whether runs, trials or blends differ by more than chance and another training would make of it",
        "ens compare quickstart r50_kfold5",
        _compare_options,
    ),
    "labels": (
        "training labels that are probably wrong, ranked for a person to judge; scores by corrected labels",
        "ens labels quickstart --out corrections.csv",
        _labels_options,
    ),
    "folds": (
        "make or show the fold plan that all recipes of a dataset share, and audit it for leaks",
        "ens folds --recipe quickstart --set folds.k=10",
        _folds_options,
    ),
    "eda": (
        "look at the data: classes, sizes, unreadable, duplicates, contradictions",
        "ens eda --recipe quickstart --out eda",
        _eda_options,
    ),
    "report": (
        "one page to look at and to send: a run, a study, a blend, a dataset, several compared, or all of outputs/",
        "ens report quickstart --open",
        _report_options,
    ),
    "status": (
        "leaderboard of runs, studies and blends, with what is missing and what to do next",
        "ens status --json",
        _status_options,
    ),
    "adopt": (
        "give a bare .npy or CSV table of a teammate ids, classes and hashes, after checking it",
        "ens adopt alice_probs.npy --ids test_ids.txt --classes classes.txt",
        _adopt_options,
    ),
    "recipes": (
        "available recipes; with a name, that recipe resolved, each value with where it came from",
        "ens recipes r50_kfold5",
        _recipes_options,
    ),
    "doctor": ("what is installed, which devices, what would go wrong, and the fix", "ens doctor --json", _no_options),
}
"""Every command: its job in a line, one worked example, its options. `ensemble.commands.NAME:run` does the job."""
