"""Say what this machine offers and what stands in the way, each with its remedy.

usage: python tools/doctor.py

Exit status: 0 nothing found, 1 something found.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Python puts tools/ first on the path, where `import detect` would find tools/detect.py.
sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main() -> int:
    """Print the machine and the problems; return the exit status."""
    if len(sys.argv) > 1:
        print(__doc__.strip())
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    try:
        import torch  # noqa: F401  # without it nothing but scoring works

        from detect.diagnosis import describe_machine, find_problems
    except Exception as error:
        print(f"problem: torch cannot be imported: {error}\n remedy: make install")
        return 1
    for name, value in describe_machine().items():
        print(f"{name:>16}  {value}")
    problems = find_problems()
    for problem in problems:
        print(f"\nproblem: {problem.what}\n remedy: {problem.remedy}")
    print(f"\n{len(problems)} problem(s) found" if problems else "\nno problems found")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
