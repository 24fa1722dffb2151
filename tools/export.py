"""Export a detector to ONNX: out=DIR [checkpoint=FILE] [regions=shared|crops] [opset=NUMBER].

Needs the onnx extra: pip install -e '.[onnx]'. Exit status: 0 written, 2 refused.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Before torch loads: idle OpenMP threads must not spin on cores that other threads need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detect import config
from detect.checkpoint import BUNDLED
from detect.export import export_checkpoint, summarise
from detect.export_settings import ExportConfig
from detect.onnx_files import DEFAULT_OPSET
from detect.score_settings import as_path, check_folder_to_write
from tools.command_line import answer


def export(arguments: list[str]) -> int:
    """Export, compare with PyTorch, write and print the comparison; return the exit status."""
    paths, overrides = config.split_arguments(arguments)
    if paths:
        raise ValueError(f"{paths[0]}: give settings as name=value; --help shows them")
    settings, _ = config.load_config("export", overrides)
    check_folder_to_write("out", settings.out)
    source = BUNDLED if settings.checkpoint is None else as_path(settings.checkpoint)
    out = as_path(settings.out)
    opset = DEFAULT_OPSET if settings.opset is None else settings.opset
    found = export_checkpoint(source, out, regions=settings.regions, opset=opset)
    print(summarise(out, found))
    return 0


def main() -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__, config.settings_help(ExportConfig)["template"], sep="\n")
        return 0 if arguments else 2
    return answer("export", lambda: export(arguments))


if __name__ == "__main__":
    sys.exit(main())
