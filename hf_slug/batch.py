# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""`hf-slug unlearn --concepts FILE`: many concepts of one model, one patch each; what is done is not done again."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from transformers.utils import logging

from .concept_list import SETS, STATISTICS, Wanted, read_concepts
from .data import Pairs, load_pairs
from .errors import describe
from .files import read_json, remove_unfinished, write_json
from .known_retain import statistics_of
from .names import bare_name, check_templates, name_of
from .objectives import contrasted
from .output import check_output
from .parts import load_parts
from .patch import CONFIG, UnlearningPatch
from .processes import Processes
from .request import Models, check_flags, columns_of, judged_by_host, load_models, templates_of
from .retain_statistics import ABOUT, RetainStatistics
from .streams import PairStream
from .subject import find_subject
from .tables import format_table


logger = logging.get_logger(__name__)

MADE_OF = "batch.json"
_NOT_OF_A_RESULT = {
    *("run", "command", "concepts", "output", "json", "plots", "device", "concept"),
    *("batch_size", "gradient_checkpointing"),  # memory, and time
}


def run(args: argparse.Namespace, unlearn: Any, accelerator: Any = None, save_plots: Any = None) -> int:
    """
    Makes the patches of a file of concepts.

    What the retain set takes is computed once for all of them, by all processes together; then each takes the next concept. One that
    fails is said so, and the others go on. Machines that share the work must share the folder of the output, too.

    Args:
        args (`argparse.Namespace`): Of `hf-slug unlearn`, with `concepts`.
        unlearn (`Callable`): From arguments of one concept, models and further settings to a result.
        accelerator (`PartialState`, *optional*): The processes that share the work.
        save_plots (`Callable`, *optional*): From a report and a folder to pictures, where they are asked for.

    Returns:
        `int`: 0 if all are forgotten, 1 if not, 2 if some could not be done.
    """
    processes = Processes(accelerator)
    if args.in_turn and processes.count > 1:
        raise ValueError(
            f"--in-turn makes each patch beside those that are done, so there is nothing for {processes.count} processes to share. Start one, "
            f"or make each concept by itself with --concept and --beside."
        )
    check_flags(args)
    check_output(args.output)
    batch = read_concepts(args.concepts)
    if processes.is_main:
        _claim(args, batch)
    done = processes.from_main(lambda: [wanted.folder for wanted in batch if _is_done(args.output / wanted.folder)])
    left = [wanted for wanted in batch if wanted.folder not in done]
    if done and processes.is_main:
        logger.warning(f"{len(done)} of {len(batch)} concepts are done already, {len(left)} are left.")
    failed: dict[str, str] = {}
    if left:
        models = load_models(args)
        common, shared = _share_retain(args, models, processes, accelerator)
        sets = {key: _open_for_all(args, key) for key in SETS}
        bar = logging.tqdm(left, desc="concepts", disable=len(left) < 2 or not processes.is_main)
        for _, wanted in processes.mine(bar):  # each is one process's: that one fails stops nobody
            own = argparse.Namespace(**vars(args) | common | {"concept": wanted.concept})
            if args.in_turn:
                own.beside = [*args.beside, *_find_done(args.output)]
            try:
                for key in SETS:
                    setattr(own, key, wanted.sets.get(key) or _own_part(args, key, sets[key], wanted.concept))
                if own.forget is None:
                    raise ValueError(f"There is no forget set. Give --forget, or `forget` in {args.concepts}.")
                result = unlearn(own, models, shared)
                if args.plots is not None:  # before the patch, by which a concept counts as done
                    save_plots(result.report, args.plots / wanted.folder)
                result.patch.save_pretrained(args.output / wanted.folder)
            except (ValueError, RuntimeError, OSError) as error:
                failed[wanted.concept] = describe(error)
                logger.error(f"{wanted.concept!r} could not be done: {failed[wanted.concept]}")
        failed = dict(processes.gather(list(failed.items())))
    return processes.exit_code(lambda: _finish(args, batch, failed))


def _share_retain(
    args: argparse.Namespace, models: Models, processes: Processes, accelerator: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Reads the retain set once; for CLIP's own loss its statistics are computed, kept beside the patches, and taken in its place.

    Returns:
        `tuple[dict, dict]`: What is other in the arguments of each concept, and in what `unlearn` is called with.
    """
    if args.retain is None:  # there are statistics
        return {}, {}
    columns = columns_of(args)
    by_host = judged_by_host(args, models.clip is not None) or (args.host is not None and args.objective != "clip")
    if by_host or args.beside or args.in_turn:
        return {"retain": load_pairs(args.retain, what="retain set", **columns)}, {}
    common: dict[str, Any] = {}
    source: Any = PairStream(args.retain, **columns)
    if not args.streaming:
        given = args.retain, args.validation_retain, args.test_retain
        parts = load_parts("retain", *given, args.seed, columns)
        source, common = parts["retain"], {key: pairs for key, pairs in parts.items() if key != "retain"}
    folder = args.output / STATISTICS
    known = read_json(folder / ABOUT)["retain"]["sha256"] if (folder / ABOUT).is_file() else None
    if known is not None and not args.streaming and known != source.fingerprint():
        raise ValueError(
            f"{folder} was computed from other pairs than {args.retain} holds now. Give another --output, or remove it to begin again."
        )
    if not processes.from_main(lambda: (folder / ABOUT).is_file()):
        # a host has one tower
        tower = find_subject(models.clip, models.host, "clip", args.tower, args.component, "matrix", False).tower
        statistics = statistics_of(args, cast(Any, models.clip), models.processor, source, accelerator, tower)
        # nobody reads them before they are written
        processes.from_main(lambda: statistics.save_pretrained(folder))
    return common, {"retain": RetainStatistics.from_pretrained(folder)}


def _open_for_all(args: argparse.Namespace, key: str) -> Pairs | None:
    """A set that holds the pairs of every concept, where the command names one."""
    given = getattr(args, key)
    if given is None or "{}" in given:
        return None
    return load_pairs(given, what=f"{key.replace('_', ' ')} set", **columns_of(args))


def _own_part(args: argparse.Namespace, key: str, pairs: Pairs | None, concept: str) -> Any:
    """The pairs of one concept: of a set for all of them, or where the argument with the name in it leads to."""
    given = getattr(args, key)
    if pairs is None:
        return None if given is None else given.replace("{}", concept)
    templates = check_templates(templates_of(args))
    name = bare_name(concept, templates).casefold()
    own = pairs.subset(i for i, pair in enumerate(pairs) if name_of(pair, templates).casefold() == name)
    if not len(own):
        raise ValueError(
            f"No pair of --{key.replace('_', '-')} ({pairs.source}) shows {concept!r}: none has that name."
        )
    return own


def _claim(args: argparse.Namespace, batch: Iterable[Wanted]) -> None:
    """Takes the output for these settings; patches of other ones are not mixed in."""
    args.output.mkdir(parents=True, exist_ok=True)
    remove_unfinished(args.output)
    told = {key: str(value) for key, value in vars(args).items() if key not in _NOT_OF_A_RESULT}
    told["retain_batch_size"] = str(contrasted(args.batch_size, args.retain_batch_size))
    path = args.output / MADE_OF
    made_of: dict[str, Any] = {
        "settings": told,
        "concepts": {w.concept: {"output": w.folder, **w.sets} for w in batch},
    }
    if path.is_file():
        before = read_json(path)
        differ = sorted(key for key in told if before.get("settings", {}).get(key) != told[key])
        changed = [
            name for name, row in before.get("concepts", {}).items() if made_of["concepts"].get(name, row) != row
        ]
        if differ or changed:
            raise ValueError(
                f"{args.output} holds patches made with other settings ({', '.join(differ + changed)}). Give another --output, or remove "
                f"it to begin again."
            )
        made_of["concepts"] = {**before.get("concepts", {}), **made_of["concepts"]}
    aside = path.with_name(f".unfinished-{MADE_OF}")
    write_json(aside, made_of)
    aside.replace(path)


def _find_done(output: Path) -> list[Path]:
    """The patches of an output that forget, also of an earlier list, in the order in which their concepts were asked for."""
    folders = [output / row["output"] for row in read_json(output / MADE_OF)["concepts"].values()]
    # one that does not forget is loaded by nobody
    return [own for own in folders if _is_done(own) and UnlearningPatch.from_pretrained(own).report["succeeded"]]


def _is_done(folder: Path) -> bool:
    return (folder / CONFIG).is_file()  # a folder appears as a whole


def _finish(args: argparse.Namespace, batch: list[Wanted], failed: dict[str, str]) -> int:
    """Prints what has become of every concept, and returns the exit code."""
    reports = {
        w.concept: UnlearningPatch.from_pretrained(args.output / w.folder).report
        for w in batch
        if w.concept not in failed
    }
    if args.json:
        print(json.dumps({"patches": reports, "failed": failed}, indent=2))
    else:
        lines = []
        for wanted in batch:
            if wanted.concept in failed:
                lines.append([wanted.concept, "", "failed", "", "", ""])
                continue
            report = reports[wanted.concept]
            before, after = report["metrics"]["before"], report["metrics"]["after"]
            lines.append(
                [
                    wanted.concept,
                    report["chosen"]["layer"],
                    "forgotten" if report["succeeded"] else "NOT forgotten",
                    f"{before['fa1']:.1%} → {after['fa1']:.1%}",
                    f"{before['ta']:.1%} → {after['ta']:.1%}",
                    str(args.output / wanted.folder),
                ]
            )
        print(format_table(["concept", "layer", "", "FA@1", "TA", "patch"], lines, left=3))
        for concept, why in failed.items():
            print(f"{concept}: {why}")
        if args.in_turn and len(reports) > 1:
            print(
                "A later patch may bring back what an earlier one took. `hf-slug compose` with --model, --forget of each and --retain says what "
                "they do together."
            )
    if failed:
        return 2
    return 0 if all(report["succeeded"] for report in reports.values()) else 1
