"""`python -m server.cli` is `veraicon`."""

from server.cli.main import main

main()
