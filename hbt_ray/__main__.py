"""`python -m hbt_ray`: the same as `hbt`."""

import sys
from pathlib import Path

# `-m` puts the working directory first, where a `datasets.py` or `json.py` would be taken for the library. Only a
# checkout is run from there.
if Path(sys.path[0] or ".").absolute() == Path.cwd() != Path(__file__).absolute().parents[1]:
    del sys.path[0]

from hbt_ray.cli import main

main()
