"""``python -m facecrafter`` is the command line."""

from facecrafter.cli import main

main()
