"""KuaiRand: short videos of Kuaishou, with the page of the app (`tab`) and many kinds of feedback.

Gao et al., CIKM 2022, https://kuairand.com. The interactions are those of the standard recommendation.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import key, labels, milliseconds, number, numbers, split, tokens, words
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table

_FEEDBACK = "is_click is_like is_follow is_comment is_forward long_view is_hate is_profile_enter play_time_ms"
_STAY = "profile_stay_time comment_stay_time"
_INTER = {
    "user_id": key("user_id"),
    "item_id": key("video_id"),
    "timestamp": number("time_ms", convert=milliseconds),
    **tokens("tab date hourmin"),
    **labels(_FEEDBACK),
    **numbers(f"{_STAY} duration_ms"),
}
_USER = {
    "user_id": key("user_id"),
    **tokens("user_active_degree is_lowactive_period is_live_streamer is_video_author"),
    **numbers("follow_user_num fans_user_num friend_user_num register_days"),
    **tokens("follow_user_num_range fans_user_num_range friend_user_num_range register_days_range"),
    **tokens(" ".join(f"onehot_feat{i}" for i in range(18))),
}
_ITEM = {
    "item_id": key("video_id"),
    **tokens("author_id video_type upload_dt upload_type visible_status"),
    **numbers("video_duration server_width server_height"),
    **tokens("music_id music_type"),
    "tag": words("tag", convert=split(",")),
}
_LEFT_OUT = {
    "log_random_*.csv": "videos that were shown at random, by another policy",
    "video_features_statistic_*.csv": "means over the whole month, the time of the test rows among it",
}


def _version(version: str, logs: tuple[str, ...], published: Published) -> PublicSet:
    end = version.lower()
    return PublicSet(
        f"kuairand-{end}",
        Table(tuple(Raw(f"log_standard_{log}.csv") for log in logs), _INTER),
        user=Table((Raw(f"user_features_{end}.csv"),), _USER, is_complete=True),
        item=Table((Raw(f"video_features_basic_{end}.csv"),), _ITEM),
        preset="kuairand",
        published={"": published},
        source="KuaiRand's README",
        left_out=_LEFT_OUT,
    )


_PERIODS = ("4_08_to_4_21", "4_22_to_5_08")
SETS = (
    _version("Pure", tuple(f"{days}_pure" for days in _PERIODS), Published(1_436_609, 27_285, 7_551)),
    _version("1K", tuple(f"{days}_1k" for days in _PERIODS), Published(11_713_045, 1_000, 4_369_953)),
    _version(
        "27K",
        tuple(f"{days}_27k_part{part}" for days in _PERIODS for part in (1, 2)),
        Published(322_278_385, 27_285, 32_038_725),
    ),
)
