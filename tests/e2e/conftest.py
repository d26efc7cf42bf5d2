"""For pytest: leaves out the cases that do not have their turn."""
import harness


def pytest_collection_modifyitems(config, items):
    out = [item for item in items if not harness.has_turn(getattr(item, "function", None))]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
