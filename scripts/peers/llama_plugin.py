"""A pytest plug-in for llama.cpp's tests of its server, which run unchanged otherwise.

- No preset is loaded before the tests: that would download models.
- The mark that skips the test of equal results with and without the cache is dropped, and
  requests that were sent at the same time are sent again alone, and must give the same text.
  llama.cpp has left both out, because they fail there.
- `POST /completion`, an endpoint of llama.cpp alone, is asked through `/v1/completions`,
  and `/embeddings` through `/v1/embeddings`. Tests that need one of these are counted apart.
- Tests of the file `$PEERS_LIST` are left out, unless `$PEERS_ALL` is set.
"""

import os

import pytest
import pytest_results

# Skipped there with the reason "fails on linux, need to be fixed".
UNSKIPPED = ("test_cache_vs_nocache_prompt",)
OLD_PATHS = ("/completion", "/completions")
# Fields of `/completion` that `/v1/completions` has too.
SAME = {
    "prompt", "stream", "seed", "temperature", "top_k", "top_p", "min_p", "stop", "logit_bias",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "repeat_last_n", "grammar",
    "json_schema", "ignore_eos", "cache_prompt", "model",
}  # fmt: skip

adapted: set[str] = set()
# Tests by the texts that were equal to those of requests alone.
equal: list[str] = []
current = ""


def new_request(old: dict) -> dict:
    """Returns the request of `/v1/completions` for one of `/completion`."""
    new = {name: value for name, value in old.items() if name in SAME}
    n_predict = old.get("n_predict")
    if n_predict is not None:
        # Below zero: as many as the context has room for.
        new["max_tokens"] = n_predict if n_predict >= 0 else 1 << 20
    if "n_probs" in old:
        new["logprobs"] = old["n_probs"]
    # What has no counterpart goes along, so that it is refused or listed.
    left = set(old) - SAME - {"n_predict", "n_probs", "id_slot"}
    return new | {name: old[name] for name in left}


def old_reply(new: dict) -> dict:
    """Returns the reply of `/completion` for one of `/v1/completions`."""
    choice = new["choices"][0]
    reason = choice["finish_reason"]
    old = {
        "index": choice["index"],
        "content": choice["text"],
        "stop": reason is not None,
        "truncated": False,
        "has_new_line": "\n" in choice["text"],
        "model": new["model"],
    }
    if reason is not None:
        old["stop_type"] = {"length": "limit", "stop": "eos"}[reason]
    if "timings" in new:
        timings = new["timings"]
        old["timings"] = timings
        old["tokens_cached"] = timings["cache_n"]
        old["tokens_evaluated"] = timings["cache_n"] + timings["prompt_n"]
        old["tokens_predicted"] = timings["predicted_n"]
    return old


def full_path(path: str) -> str:
    if path != "/embeddings":
        return path
    adapted.add(current)
    return "/v1" + path


def patch(utils) -> None:
    utils.ServerPreset.load_all = staticmethod(lambda: None)
    make_request = utils.ServerProcess.make_request
    make_stream_request = utils.ServerProcess.make_stream_request

    def request(self, method, path, data=None, headers=None, **rest):
        if method != "POST" or path not in OLD_PATHS or not isinstance(data, dict):
            return make_request(self, method, full_path(path), data, headers, **rest)
        adapted.add(current)
        new = new_request(data)
        result = make_request(self, method, "/v1/completions", new, headers, **rest)
        if result.status_code == 200:
            choices = result.body["choices"]
            replies = [old_reply(result.body | {"choices": [choice]}) for choice in choices]
            result.body = replies[0] if len(replies) == 1 else replies
        return result

    def stream_request(self, method, path, data=None, headers=None, **rest):
        if method != "POST" or path not in OLD_PATHS:
            yield from make_stream_request(self, method, full_path(path), data, headers, **rest)
            return
        adapted.add(current)
        new = new_request(data)
        new["stream_options"] = {"include_usage": True}
        last = None
        for chunk in make_stream_request(self, method, "/v1/completions", new, headers, **rest):
            if not chunk.get("choices"):
                if last is not None and "timings" in chunk:
                    last["timings"] = chunk["timings"]
                continue
            if last is not None:
                yield last
            last = old_reply(chunk)
        if last is not None:
            yield last

    at_once = utils.parallel_function_calls

    def calls(functions):
        results = at_once(functions)
        # Of test_completion_parallel_slots, whose own check is a comment: "FIXME: the result
        # is not deterministic when using other slot than slot 0".
        for (function, args), result in zip(functions, results, strict=True):
            if args[1:2] == ("/completion",) and "seed" in args[2]:
                alone = function(*args)
                assert alone.body["content"] == result.body["content"], "not as alone"
                equal.append(current)
        return results

    utils.parallel_function_calls = calls
    utils.ServerProcess.make_request = request
    utils.ServerProcess.make_stream_request = stream_request


def left_out() -> set[str]:
    with open(os.environ["PEERS_LIST"], encoding="utf-8") as file:
        return {line.split(" -- ")[0] for line in file if " -- " in line}


def name(item) -> str:
    return item.nodeid.removeprefix("unit/")


def pytest_configure(config):
    import utils  # that of the tests, in their folder

    patch(utils)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.originalname in UNSKIPPED:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "skip"]
    if os.environ.get("PEERS_ALL"):
        return
    listed = left_out()

    def is_listed(item) -> bool:
        # A line names a file, a function with all its parameters, or one test.
        test = name(item)
        return not listed.isdisjoint({test, test.split("[")[0], test.split("::")[0]})

    config.hook.pytest_deselected(items=[item for item in items if is_listed(item)])
    items[:] = [item for item in items if not is_listed(item)]


def pytest_runtest_setup(item):
    global current
    current = name(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    test = name(item)
    more = {"adapted": test in adapted, "equal": equal.count(test)}
    pytest_results.write(test, outcome.get_result(), **more)
