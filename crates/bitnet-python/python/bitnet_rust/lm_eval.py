"""A model class of lm-evaluation-harness: log-likelihoods and texts.

    python -m bitnet_rust.lm_eval run --model bitnet_rust --model_args model=FILE.gguf --tasks …

or `lm_eval.simple_evaluate(model=BitnetLM(), …)` in Python.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from .model import Model, Options


@register_model("bitnet_rust")
class BitnetLM(TemplateLM):
    """A `Model` for the harness. Options besides `model` are those of `Model.load`."""

    def __init__(
        self,
        model: str | Model = "builtin",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """The batch sizes are not used: the model runs as many texts at once as it was loaded
        for."""
        super().__init__()
        if isinstance(model, Model):
            self.model = model
        else:
            self.model = Model.load(model, device=device or "auto", **options)

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_ids[0]

    @property
    def prefix_token_id(self) -> int:
        bos = self.model.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        add_bos = add_special_tokens is not False
        ids: list[int] = self.model.tokenize(string, add_bos=add_bos).tolist()
        return ids

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        # A text that is longer than the context loses its beginning.
        given = [(context + rest)[-self.model.n_ctx :] for _, context, rest in requests]
        found = []
        for (_, _, rest), (scores, is_top) in zip(
            requests, self.model.score_batch(given), strict=True
        ):
            n = len(rest)
            found.append((float(scores[-n:].sum(dtype="float64")), bool(is_top[-n:].all())))
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        sums = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.model.n_ctx - 1,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            sums.append(sum(score for score, _ in self._loglikelihood_tokens(pairs)))
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, how: dict[str, Any]) -> str:
        stop = how.get("until") or []
        options: Options = {
            "stop": [stop] if isinstance(stop, str) else stop,
            "max_tokens": int(how.get("max_gen_toks", 256)),
            "temperature": float(how.get("temperature", 0)) if how.get("do_sample") else 0,
        }
        ids = self.tok_encode(context)
        return str(self.model.generate(ids[-(self.model.n_ctx - 1) :], **options))


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
