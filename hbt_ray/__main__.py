"""`python -m hbt_ray`: the same as `hbt`."""

from hbt_ray.cli import main

main()
