"""One module per scenario: `TITLE`, `NODES` and `async def run(run: Run) -> None`. The name is the module's, with dashes."""
