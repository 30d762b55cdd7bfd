"""Where a conversion writes to, and what becomes of it where some targets fail."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeq.bundle.folder import Bundle, check_free, open_bundle
from edgeq.conversion.options import Options
from edgeq.errors import EdgeqError, TargetsFailed, all_of
from edgeq.report.overview import write_overview


def write_bundles(name: str, targets: Sequence[str], output: str | Path | None,
                  write: Callable[[Mapping[str, Path]], Mapping[str, EdgeqError]], options: Options,
                  ) -> tuple[Bundle, ...]:
    """One bundle a target. name: of the model. write: takes the path of each target's bundle -> the targets whose
    bundle failed, and why. Of several, one page over all lies beside them, `<name>.report.html`.

    Raises:
        EdgeqError: every target failed. TargetsFailed: some did. BundleError: something else lies where one goes.
    """
    with _destination(output, dry_run=options.dry_run) as place:
        paths = {target: _output_path(name, target, place, alone=len(targets) == 1) for target in targets}
        for path in paths.values():
            check_free(path, force=options.force)
        failed = dict(write(paths))
        written = [path for target, path in paths.items() if target not in failed]
        if failed and not written:
            raise all_of(list(failed.values()))
        bundles = tuple(open_bundle(path) for path in written)
        if len(targets) > 1 and options.report:
            write_overview(written[0].parent / f"{name}.report.html", [
                {**bundle.report, "path": bundle.path, "bytes": bundle.artifact_bytes} for bundle in bundles],
                {target: str(error).removeprefix(f"{target}: ") for target, error in failed.items()})
        if failed:
            raise TargetsFailed(failed, written)
        return bundles


def _output_path(name: str, target: str, output: str | Path | None, *, alone: bool) -> Path:
    """`<name>.<target>.edgeq` in the current folder; with several targets, -o names the folder of the bundles."""
    if output is not None and alone:
        return Path(output)
    return Path(output or ".") / f"{name}.{target}.edgeq"


@contextmanager
def _destination(output: str | Path | None, *, dry_run: bool) -> Iterator[str | Path | None]:
    """What -o names; in a dry run a folder that vanishes."""
    if not dry_run:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        yield Path(folder) / "dry-run"
