"""Commands around the one file in which a bundle travels."""
from __future__ import annotations

from pathlib import Path

import click

from edgeq.cli.shared import common, print_result, say

_PATH = click.Path(path_type=Path)
_force = click.option("--force", is_flag=True, help="Replace what is there.")


@click.command()
@click.argument("bundle", type=_PATH)
@click.option("--sign", "key", type=_PATH, metavar="KEY.pem", help="Sign with this private ed25519 key (edgeq keygen).")
@click.option("--c-array", is_flag=True, help="Write the model as C++ source for a microcontroller instead.")
@click.option("--report", is_flag=True, help="With report.html, which devices have no use for.")
@_force
@click.option("-o", "--output", type=_PATH, help=".zip or .tar; the bundle's name with .zip by default. With --c-array "
              "NAME, for NAME.h and NAME.cc.")
@common
def pack(bundle: Path, key: Path | None, c_array: bool, report: bool, output: Path | None, force: bool,
         as_json: bool) -> None:
    """Write a bundle into one file for transport.

    A device unpacks, tests and switches to it with: python -m edgeq_runtime install FILE FOLDER
    """
    if c_array:
        _pack_c_array(bundle, key, output, force, as_json)
        return
    from edgeq.bundle.archive import pack as write

    path = write(bundle, output, key=key, report=report, force=force)
    print_result({"path": str(path), "bytes": path.stat().st_size, "signed": key is not None}, as_json,
                 lambda: say(path))


def _pack_c_array(bundle: Path, key: Path | None, output: Path | None, force: bool, as_json: bool) -> None:
    from edgeq.bundle.c_array import write_c_array

    if key is not None:
        raise click.UsageError("--sign is for archives: source that is compiled in needs no signature of its own")
    header, source = write_c_array(bundle, output, force=force)
    print_result({"header": str(header), "source": str(source), "bytes": source.stat().st_size}, as_json,
                 lambda: say(f"{header}\n{source}"))


@click.command()
@click.argument("archive", type=_PATH)
@click.option("--key", type=_PATH, metavar="PUBLIC.pem", help="Refuse what this key has not signed.")
@_force
@click.option("-o", "--output", type=_PATH, help="The bundle's folder; the archive's name without its ending.")
@common
def unpack(archive: Path, key: Path | None, output: Path | None, force: bool, as_json: bool) -> None:
    """Open a file of `edgeq pack`, checking every byte."""
    from edgeq.bundle.archive import unpack as read

    path = read(archive, output, key=key, force=force)
    print_result({"path": str(path)}, as_json, lambda: say(path))


@click.command()
@click.option("-o", "--output", "name", type=_PATH, default="edgeq-key", show_default=True, help="NAME of the files.")
@common
def keygen(name: Path, as_json: bool) -> None:
    """Make a pair of keys: NAME.pem signs and stays here, NAME.pub.pem goes to the devices."""
    from edgeq.bundle.archive import new_key

    private, public = new_key(name)
    print_result({"private": str(private), "public": str(public)}, as_json,
                 lambda: say(f"{private}\n{public}"))
