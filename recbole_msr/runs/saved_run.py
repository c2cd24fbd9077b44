"""A finished run: opened by `recbole_msr.load`, with predictions and explanations on top."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_msr.data.positives import ranks_items
from recbole_msr.errors import InputError
from recbole_msr.evaluation.calibration import Calibration
from recbole_msr.runs.calibrated import CALIBRATION, read_calibration
from recbole_msr.runs.folder import VALIDATED
from recbole_msr.runs.run_files import RunFiles, shared_property
from recbole_msr.runs.scoring import Scored, Scorer
from recbole_msr.training.checkpoint import apply_weights

if TYPE_CHECKING:
    import pandas as pd

    from recbole_msr.evaluation.importance import Importance
    from recbole_msr.runs.explain.permutation import ImportanceOptions
    from recbole_msr.runs.explain.views import Explanation

logger = logging.getLogger(__name__)


class SavedRun(RunFiles):
    """A finished run; `recbole_msr.load` opens it.

    Its files are read when they are first used. Threads may share it.

    Args:
        folder: the run's folder.
        knowledge_dir: where the run's knowledge is now, if it has moved.

    Attributes:
        folder: the run's folder.
        config: the run's settings as plain values, `model` and `dataset` among them.
        result: the content of result.json.
        evaluation: the scenario x task cells: `evaluation.valid`, `evaluation.test`.
        dataset: the vocabularies and the user and item tables that the run kept, without interactions.

    Raises:
        InputError: there is no such folder, it holds no finished run, or its files are damaged or of a version with
            another format; the message names the file.
    """

    @property
    def members(self) -> list[SavedRun]:
        """The run alone, in the place of an ensemble's members."""
        return [self]

    @shared_property
    def model(self) -> Any:
        """The trained model (a `torch.nn.Module`) with the best epoch's weights, in evaluation mode.

        Raises:
            InputError: the run has no tasks, or its weights, its vocabulary or its knowledge cannot be read; or it is
                one of RecBole's models that learn from users and items alone, which score no rows.
        """
        from recbole.utils import get_model

        self.require_tasks(
            "its model is built from the dataset itself; recbole.quick_start.load_data_and_model("
            f"'{self.checkpoint_path}') does so"
        )
        config = self.recbole_config
        if ranks_items(config):
            raise InputError(
                f"the run in {self.folder} is of {config['model']}, one of RecBole's models that rank the items of "
                "their own data: it scores no new rows. Its lists are evaluated in result.json; a model of fields "
                "scores rows"
            )
        model = get_model(config["model"])(config, self.dataset)
        apply_weights(model, self.take_checkpoint(), self.checkpoint_path)
        return model.to(config["device"]).eval()

    @shared_property
    def scorer(self) -> Scorer:
        """The model with what encodes raw rows; for `predict`, `score` and files of rows."""
        dataset = self.dataset
        return Scorer(self.recbole_config, dataset, self.model, self.calibration)

    @shared_property
    def calibration(self) -> Calibration | None:
        """What maps the model's probabilities (`calibrate`); None for a run that is not calibrated.

        A trial's model and a run that was not tested are not calibrated yet.

        Raises:
            InputError: its file is missing or damaged.
        """
        if self.config.get("calibrate", "none") == "none":
            return None
        if not (self.folder / CALIBRATION).exists() and (self.folder / VALIDATED).exists():
            logger.warning("%s: the probabilities are not calibrated, as the run was not tested", self.folder)
            return None
        return read_calibration(self.folder)

    @property
    def tasks(self) -> list[str]:
        """The tasks that are predicted: all of the run's, or the main task of a model of one task."""
        return self.scorer.tasks

    def predict(
        self, frame: pd.DataFrame, batch_size: int = 8192, histories: pd.DataFrame | str | Path | None = None
    ) -> pd.DataFrame:
        """Predict the probability of every task for new rows.

        Args:
            frame: (N, ...), a row an event; a column for the user, the item, and every field of the interactions that
                the model reads. Fields of users and items may be left out, or empty in some rows: those of known ones
                are in the run's tables. Further columns are ignored.
            batch_size: rows predicted at a time.
            histories: what users have done, for a run with knowledge of profiles: a row an event, with the user, the
                item, the label, and time and scenario where profiles have such parts; or a .csv, .parquet or .inter
                file of that. A user in it has the profile of these rows, instead of the unknown vector or the store's.

        Returns:
            Probabilities (N, T), a column a task, with the frame's index. A value never seen in training uses the
            unknown embedding, a row of an unknown scenario gets the mean over scenarios, and for a missing number
            stands the mean of the training data; `score` counts such rows.

        Raises:
            InputError: the run has no tasks, a needed column is missing or there twice, or a value is no number where
                one is needed.

        Example::

            import pandas
            import recbole_msr

            run = recbole_msr.load("runs/first")
            scores = run.predict(pandas.DataFrame({"user_id": ["1", "2"], "item_id": ["50", "9999"]}))
            scores["click"]  # one probability a row
        """
        return self.score(frame, batch_size, histories).scores

    def score(
        self, frame: pd.DataFrame, batch_size: int = 8192, histories: pd.DataFrame | str | Path | None = None
    ) -> Scored:
        """Predict as `predict` does, and count the rows with unknown or missing values.

        Returns:
            `scores` (N, T), and the counts `unknown` and `missing` by field; with histories `with_history`, rows whose
            user has a profile of them, and `histories`, what became of their rows.
        """
        scorer = self.scorer if histories is None else self.scorer.with_histories(histories)
        return scorer.score(frame, batch_size)

    def recommend(self, users: pd.DataFrame | Sequence[Any], **options: Any) -> pd.DataFrame:
        """Return the items with the best scores for every user.

        Args:
            users: raw ids; or a row a list, with the user and every field of the interactions that the model reads.
            **options: `k`, length of a list (10); `score`, a formula over the predictions such as "click * buy" (the
                first task); `candidates`, raw ids of items (all that the run has trained on); `scenario`, the name of
                that of all lists; `exclude_seen`, to leave out the items of the user's rows in the run's data (False);
                `histories`, as for `predict`, whose items `exclude_seen` leaves out too.

        Returns:
            A row for each user and place: the columns of the user's row, `rank` from 1, the item, `score` and the
            predictions. Of equal scores the item that the run met first comes first.

        Raises:
            InputError: an option or a row cannot be used.
        """
        from recbole_msr.runs.recommend import recommend

        return recommend(self, users, **options)

    def explain(
        self, users: Sequence[str] | None = None, n: int | None = None, importance: ImportanceOptions | None = None
    ) -> Explanation:
        """Look into what the run has learnt between its scenarios, and for single users.

        Training rows are read again from where the run found them, and prompts from its store; what is no longer
        there is named in the notes, and the rest is shown. All numbers are of training rows, but for the evaluation,
        which is the run's own, metrics with permuted vectors, of validation rows, and the importance of fields.

        Args:
            users: raw ids of users; by default `n` users spread over the scenarios.
            n: number of those users, 5 by default.
            importance: measure that of the fields, too; `importance` does so alone.

        Raises:
            InputError: the run has no scenarios and tasks, or does not know a user.
        """
        from recbole_msr.runs.explain.explain import explain_run  # reads Parquet stores: not needed to predict

        return explain_run(self, users, 5 if n is None else n, importance)

    def importance(self, fields: Sequence[str] | None = None, shuffles: int = 5, **options: Any) -> Importance:
        """Measure what each task's metric loses when a field is shuffled among the rows of a scenario.

        The rows are those of the test split, read again from where the run found them; of a run that has not been
        tested yet those of the validation split. Nothing is trained, and nothing is chosen by it.

        Args:
            fields: names of fields; "a+b" shuffles two together, "user" and "item" all that the model reads of either,
                "history" the whole history. By default every field that the model reads, each by itself.
            shuffles: of each field.
            **options: `split`, `rows` and `seed` of `runs.explain.permutation.ImportanceOptions`.

        Raises:
            InputError: the run has no tasks, a field is unknown, or the data are gone or have changed.

        Example::

            importance = recbole_msr.load("runs/first").importance(["user_id", "item"])
            importance.fields[0].loss("auc", "click", macro=True).mean
            importance.frame()  # a line for each field, task, metric and scenario
        """
        from recbole_msr.runs.explain.explain import explain_importance
        from recbole_msr.runs.explain.permutation import ImportanceOptions

        return explain_importance(self, ImportanceOptions(fields, shuffles, **options))

    def __repr__(self) -> str:
        try:
            metric = f"valid {self.result['valid_metric']} {self.result['best_valid_score']:.4f}, "
        except (InputError, LookupError, TypeError, ValueError):  # a copy without the result, say
            metric = ""
        return f"SavedRun({self.config['model']} on {self.config['dataset']}, {metric}{str(self.folder)!r})"
