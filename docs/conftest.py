"""The examples of the gallery are run when the site is built, and are no modules to collect."""

collect_ignore_glob = ["*.py", "**/*.py"]
