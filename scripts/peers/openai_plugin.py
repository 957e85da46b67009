"""A pytest plug-in that reports what happened to each test of the `openai` client."""

import pytest
import pytest_results


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    name = item.nodeid.removeprefix("tests/api_resources/")
    pytest_results.write(name, outcome.get_result())
