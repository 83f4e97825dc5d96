"""The command line of tools/make_shards.py."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from cl.errors import CheckpointError, ClError, DataError
from cl.views.audit import audit
from cl.views.digits import write_digits
from cl.views.folder import Folder
from cl.views.index import write_index
from cl.views.loading import told
from cl.views.making import make_shards
from cl.views.openmoji import SIZES, write_openmoji
from cl.views.pairs import Pairs
from cl.views.records import Bad, BadSample, Source
from cl.views.shards import Shards
from cl.views.torchvision_set import TorchvisionSet

EPILOG = """\
examples:
  python tools/make_shards.py folder photos shards --label        # the class of a picture is its subfolder
  python tools/make_shards.py pairs captions.csv shards --shorter 256
  python tools/make_shards.py torchvision CIFAR10 shards --root data --split train
  python tools/make_shards.py index shards-of-others

@Shards() reads what was written: bind Shards.path = 'shards'. A call that was interrupted goes on where it stopped."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = top.add_subparsers(dest="kind", required=True, metavar="KIND")

    digits = kinds.add_parser("digits", help="the built-in handwritten digits in colour scenes, one folder a split")
    digits.add_argument("out", type=Path, metavar="OUT", help="where to write; empty, or not there yet")

    openmoji = kinds.add_parser("openmoji", help="OpenMoji's pictograms with groups and names, one folder a split")
    openmoji.add_argument("out", type=Path, metavar="OUT", help="where to write; empty, or not there yet")
    openmoji.add_argument("--placed", action="store_true", help="at a random place and size instead of in the middle")
    openmoji.add_argument("--size", type=int, default=64, help="side of the pictures, in pixels; default 64")

    folder = kinds.add_parser("folder", help="all pictures in a folder and its subfolders")
    folder.add_argument("path", type=Path)
    folder.add_argument("--label", action="store_true", help="the class of a picture is its first subfolder")
    pairs = kinds.add_parser("pairs", help="pictures and captions listed in a .csv, .tsv or .parquet file")
    pairs.add_argument("path", type=Path)
    pairs.add_argument("--image", default="image", help="column of the paths, relative to the file; default image")
    pairs.add_argument("--caption", default="caption", help="column of the captions; default caption")
    pairs.add_argument("--label", help="column of the labels; default none")
    vision = kinds.add_parser("torchvision", help="a data set of torchvision's that is on disk already")
    vision.add_argument("path", metavar="NAME", help="CIFAR10, STL10, …: a class of torchvision.datasets")
    vision.add_argument("--root", type=Path, required=True, help="the folder that torchvision keeps it in")
    vision.add_argument("--split", default="train", help="train, test, or as the class calls it; default train")
    for one in (folder, pairs, vision):
        one.add_argument("out", type=Path, metavar="OUT", help="where to write; empty, new, or begun by the same call")
        one.add_argument(
            "--name", help="of the data set, of which the samples' ids are a function; default the source's"
        )
        one.add_argument("--per-shard", type=int, default=10_000, metavar="N", help="samples a shard; default 10,000")
        one.add_argument(
            "--shorter",
            type=int,
            metavar="PIXELS",
            help="shrink pictures to this shorter side: decoding then costs less",
        )
        one.add_argument("--max-bad-fraction", type=float, default=0.01, help="of samples left out; default 0.01")

    index = kinds.add_parser("index", help="index and audit the shards in a folder, whoever wrote them")
    index.add_argument("path", type=Path)
    index.add_argument("--name", help="of the data set; default that of the index that is there, or the folder's")
    index.add_argument("--decode", action="store_true", help="decode every picture as well, and count what cannot be")
    for one in (folder, pairs, vision, index):
        one.add_argument("--workers", type=int, default=2, help="processes; default 2")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 2 usage, 3 the data, 5 the disk."""
    arguments = parser()
    chosen = arguments.parse_args(argv)
    for name, least in {"per_shard": 1, "shorter": 1, "workers": 1}.items():
        if (given := getattr(chosen, name, None)) is not None and given < least:
            arguments.error(f"--{name.replace('_', '-')} must be at least {least}, got {given}")
    if getattr(chosen, "size", SIZES[0]) not in SIZES:
        arguments.error(f"--size is from {SIZES[0]} to {SIZES[-1]} pixels, got {chosen.size}")
    if not 0 <= getattr(chosen, "max_bad_fraction", 0.0) <= 1:
        arguments.error(f"--max-bad-fraction is from 0 to 1, got {chosen.max_bad_fraction}")
    try:
        if chosen.kind == "digits":
            _built_in(chosen.out, write_digits)
        elif chosen.kind == "openmoji":
            _built_in(chosen.out, partial(write_openmoji, size=chosen.size, placed=chosen.placed))
        elif chosen.kind == "index":
            _index(chosen)
        else:
            _make(chosen)
    except ClError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(
            f"Cannot write {chosen.out if 'out' in chosen else chosen.path}: {error.strerror or error}.",
            file=sys.stderr,
        )
        return CheckpointError.code
    return 0


def _built_in(out: Path, write: Callable[[Path], None]) -> None:
    if out.exists() and any(out.iterdir()):
        raise FileExistsError("it is not empty. Name a new folder")
    write(out)
    print(f"Wrote {', '.join(sorted(path.name for path in out.iterdir()))} to {out}.")


def _make(chosen: argparse.Namespace) -> None:
    source = _source(chosen)
    with _progress("samples") as progress:
        left_out = make_shards(
            source,
            chosen.out,
            chosen.name or source.records().name,
            chosen.per_shard,
            chosen.shorter,
            chosen.workers,
            progress,
        )
    total = len(source.records())
    print(f"{chosen.out}: {total - left_out.total():,} samples in {len(list(chosen.out.glob('*.tar'))):,} shards.")
    if left_out:
        print(f"{left_out.total():,} cannot be used and were left out: {told(left_out)}.")
    if isinstance(source, Folder) and source.label:
        print("Classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(source.classes())))


def _source(chosen: argparse.Namespace) -> Folder | Pairs | TorchvisionSet:
    if chosen.kind == "folder":
        return Folder(str(chosen.path), chosen.label, max_bad_fraction=chosen.max_bad_fraction)
    if chosen.kind == "pairs":
        columns = (chosen.image, chosen.caption, chosen.label)
        return Pairs(str(chosen.path), *columns, max_bad_fraction=chosen.max_bad_fraction)
    return TorchvisionSet(chosen.path, chosen.root, chosen.split, chosen.max_bad_fraction)


def _index(chosen: argparse.Namespace) -> None:
    with _progress("shards") as progress:
        found = audit(chosen.path, chosen.workers, progress)
    for line in found.remarks:
        print(line)
    if found.problems:
        for line in found.problems:
            print(line, file=sys.stderr)
        raise DataError(f"{chosen.path} was not indexed: {len(found.problems)} problems, named above.")
    write_index(chosen.path, chosen.name or found.name or chosen.path.resolve().name, found.shards)
    print(f"Wrote the index of {sum(map(len, found.shards)):,} samples.")
    if chosen.decode:
        bad = _undecodable(Shards(str(chosen.path), label=None, caption=None, max_bad_fraction=1.0))
        print(f"{bad.total():,} pictures cannot be decoded{': ' if bad else ''}{told(bad)}.")


def _undecodable(source: Source) -> Counter[str]:
    records, bad = source.records(), Counter[str]()
    with _progress("samples") as progress:
        for position in range(len(records)):
            record = records[position]
            try:
                source.decoded(record)
            except BadSample as error:
                bad[Bad.of(record, error).counted] += 1
            progress(position + 1, len(records))
    return bad


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    console = Console()
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
