"""Raw files of public datasets in the original's form, with invented values."""

import gzip
import json

import numpy as np
import pandas as pd
from scipy.io import savemat

N = 240
RNG = np.random.default_rng(7)


def _bits(share=0.5):
    return (RNG.random(N) < share).astype(int)


def _of(values):
    return RNG.choice(values, N)


def _csv(path, frame, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, **options)


def _lines(path, lines, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))


def _json(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def movielens(raw):
    rows = [f"{u},{i},{r / 2},{t}" for u, i, r, t in zip(_of(20), _of(12), _of(range(1, 11)), _of(10**6), strict=True)]
    _lines(raw / "ml-32m" / "ratings.csv", ["userId,movieId,rating,timestamp", *rows])
    genres = ["Action|Sci-Fi", "Comedy", "Drama", "Adventure|Comedy", "(no genres listed)", "Horror"]
    films = [f'{i},"Film, The {i} (19{80 + i})",{genres[i % 6]}' for i in range(12)]
    _lines(raw / "ml-32m" / "movies.csv", ["movieId,title,genres", *films])


def _movielens_10m(raw):
    _lines(raw / "ratings.dat", [f"{i % 20}::{i % 12}::{i % 5 + 1}::{838985046 + i}" for i in range(N)])
    genres = ["Action", "Comedy", "Drama", "Adventure", "Horror"]
    _lines(raw / "movies.dat", [f"{i}::Amélie: {i} (2001)::{genres[i % 5]}" for i in range(12)])


def _movielens_100k(raw):
    _lines(raw / "u.data", [f"{i % 20 + 1}\t{i % 12 + 1}\t{i % 5 + 1}\t{881250949 + i}" for i in range(N)])
    _lines(raw / "u.user", [f"{i}|{15 + i}|{'MF'[i % 2]}|writer|9810{i}" for i in range(1, 21)])
    flags = ["|".join("1" if g in (5, i % 19) else "0" for g in range(19)) for i in range(1, 13)]
    films = [f"{i}|Misérables, Les (1995)|01-Jan-1995||http://x?{i}|{flags[i - 1]}" for i in range(1, 13)]
    _lines(raw / "u.item", films, "latin-1")


def kuairand(raw, end="pure", parts=("",)):
    users, videos = range(12), range(30)
    for days in ("4_08_to_4_21", "4_22_to_5_08"):
        for part in parts:
            log = {
                "user_id": _of(users),
                "video_id": _of(videos),
                "date": 20220408,
                "hourmin": 1700,
                "time_ms": 1649581149287,
            }
            log |= {
                name: _bits(0.4) for name in ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate")
            }
            log |= {"long_view": _bits(0.3), "play_time_ms": _of(range(10**5)), "duration_ms": _of(range(1, 10**5))}
            log |= {
                "profile_stay_time": 0,
                "comment_stay_time": 0,
                "is_profile_enter": 0,
                "is_rand": 0,
                "tab": _of([0, 1, 2, 4, 6, 9]),
            }
            _csv(raw / "data" / f"log_standard_{days}_{end}{part}.csv", pd.DataFrame(log))
    user = {"user_id": users, "user_active_degree": "full_active", "is_lowactive_period": 0, "is_live_streamer": -124}
    user |= {"is_video_author": 1}
    for name in ("follow_user_num", "fans_user_num", "friend_user_num", "register_days"):
        user |= {name: range(3, 15), f"{name}_range": "(10,50]"}
    user |= {"register_days_range": "730+"} | {f"onehot_feat{i}": 1.0 for i in range(18)}
    _csv(raw / "data" / f"user_features_{end}.csv", pd.DataFrame(user))
    video = {
        "video_id": videos,
        "author_id": 5,
        "video_type": "NORMAL",
        "upload_dt": "2020-07-08",
        "upload_type": "Kmovie",
    }
    video |= {
        "visible_status": 1.0,
        "video_duration": 17200.0,
        "server_width": range(700, 730),
        "server_height": range(1280, 1310),
    }
    video |= {"music_id": 98, "music_type": 4.0, "tag": "12,65"}
    _csv(raw / "data" / f"video_features_basic_{end}.csv", pd.DataFrame(video))
    _csv(raw / "data" / f"log_random_4_22_to_5_08_{end}.csv", pd.DataFrame(log))


def _kuaisar(raw):
    ids = {"user_id": _of(9), "item_id": _of(40)}
    flags = {name: _bits() for name in ("click", "forward", "like", "follow", "search", "search_item_related")}
    rec = {**ids, "time": "2023-05-22 15:53:20", "timestamp": 1684742000123.0 + np.arange(N), **flags}
    _csv(raw / "rec_inter.csv", pd.DataFrame(rec | {"playing_time": 60792.0, "duration_ms": 45400.0}))
    search = {**ids, "search_session_id": range(N), "search_session_time": "2023-05-22 21:58:52"}
    search |= {"search_session_timestamp": 1684763932919 + np.arange(N), "keyword": "[20, 34, 3]"}
    search |= {"search_source": "USER_INPUT", "click_cnt": _of([0, 1, 2]), "item_type": "VIDEO"}
    _csv(raw / "src_inter.csv", pd.DataFrame(search))
    user = {"user_id": range(9), "search_active_level": 1, "rec_active_level": 2, "onehot_feat1": 0, "onehot_feat2": 7}
    _csv(raw / "user_features.csv", pd.DataFrame(user))
    item = {
        "item_id": range(39),
        "caption": "[1, 213]",
        "author_id": 10,
        "item_type": "NORMAL",
        "upload_time": "2023-04-22",
    }
    item |= {"upload_type": "LongImport"}
    for level in ("first", "second", "third", "fourth"):
        item |= {
            f"{level}_level_category_id": 9,
            f"{level}_level_category_name": "搞笑",
            f"{level}_level_category_name_en": "Funny joke",
        }
    _csv(raw / "item_features.csv", pd.DataFrame(item))


def amazon_2018(raw):
    for domain, first in (("All_Beauty", 0), ("Gift_Cards", 5)):
        rows = zip(_of(20), _of(range(first, first + 15)), _of(range(1, 6)), strict=True)
        other = {"verified": True, "reviewText": "good\nthing", "unixReviewTime": 1424304000, "style": {"Size:": " L"}}
        reviews = [{"overall": float(r), "reviewerID": f"A{u}", "asin": f"B{i}", **other} for u, i, r in rows]
        _json(raw / f"{domain}_5.json.gz", reviews)
        other = {"brand": "", "category": ["Bath Soaps", "Beauty"]}
        products = [{"asin": f"B{i}", "title": f"Soap,\n\t{i}", **other} for i in range(first, first + 17)]
        _json(raw / f"meta_{domain}.json.gz", [*products, products[0] | {"brand": ["odd"]}])


def _amazon_2023(raw):
    for domain in ("All_Beauty", "Video_Games"):
        ids = zip(_of(20), _of(15), _of(range(1, 6)), strict=True)
        other = {"title": "Meh", "images": [], "timestamp": 1634275259292, "verified_purchase": True}
        names = ("user_id", "parent_asin", "rating")
        rows = [dict(zip(names, (f"U{u}", f"{domain[0]}{i}", float(r)), strict=True)) | other for u, i, r in ids]
        _json(raw / f"{domain}.jsonl.gz", rows)
        other = {"main_category": "All Beauty", "price": None, "store": "Lurrose", "categories": []}
        products = [{"title": f"Nails {i}", "parent_asin": f"{domain[0]}{i}", **other} for i in range(15)]
        _json(raw / f"meta_{domain}.jsonl.gz", products)


def _mind(raw):
    news = [f'N{i}\t{c}\t{c}-x\t"Quoted" title {i}\tAbout\thttp://x\t[]\t[]' for i, c in enumerate(CATEGORIES)]
    for part, first in (("MINDsmall_train", 0), ("MINDsmall_dev", 60)):
        _lines(raw / part / "news.tsv", news)
        rows = (f"{i}\tU{i % 9}\t11/11/2019 9:05:58 AM\t{'N1 N2' if i % 2 else ''}\t" for i in range(first, first + 60))
        _lines(raw / part / "behaviors.tsv", [f"{row}N{i % 20}-1 N{(i + 7) % 20}-0" for i, row in enumerate(rows)])


CATEGORIES = ["news", "lifestyle", "sports", "finance", "travel"] * 4


def _frappe(raw):
    names = ["user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
    times = ["morning", "sunrise", "noon", "afternoon", "evening", "sunset", "night"]
    rest = "sunday\tweekend\tunknown\tfree\tsunny\tUnited States\t0"
    rows = [f"{i % 12}\t{i % 31}\t{i % 4 + 1}\t{times[i % 7]}\t{rest}" for i in range(N)]
    _lines(raw / "frappe" / "frappe.csv", ["\t".join(names), *rows])
    names = ["item", "package", "category", "downloads", "developer", "icon", "language"]
    names += ["description", "name", "price", "rating", "short desc"]
    apps = [f'{i}\tcom.x\tTools\t1 - 5\tAny "DO"\thttp\ten\tHelps\tAny.DO list\tFree\t4.5\tx' for i in range(31)]
    _lines(raw / "frappe" / "meta.csv", ["\t".join(names), *apps])


def _tenrec(raw):
    ids = {"user_id": _of(20), "item_id": _of(30), "click": _bits()}
    video = {**ids, "follow": _bits(0.3), "like": _bits(0.4), "share": _bits(0.3)}
    video |= {"video_category": _of(["0", "1", "\\N"]), "watching_times": 0, "gender": 1, "age": 4}
    _csv(raw / "QK-video.csv", pd.DataFrame(video))
    _csv(raw / "QB-video.csv", pd.DataFrame(video))
    article = ids | {"click": 1.0, "gender": 0, "age": 0, "category_second": 101, "category_first": 1}
    _csv(raw / "QB-article.csv", pd.DataFrame(article))


def aliexpress(raw):
    for country, first in (("nl", 100), ("us", 100)):
        for part in ("train", "test"):
            searches = range(first, first + 12)
            user = {1: searches, **{i: RNG.integers(0, 9, 12) for i in range(2, 9)}}
            user |= {i: RNG.random(12).round(4) for i in range(9, 32)} | {32: 1, 33: range(12)}
            item = {1: _of(searches)} | {i: RNG.random(N).round(4) for i in range(2, 49)}
            item |= {i: RNG.integers(0, 5, N) for i in (19, 34, 35, 36, 40, 41, 42)} | {49: _of([0, 1, 2])}
            for name, columns in (("user", user), ("item", item)):
                path = raw / f"aliexpress_{country.upper()}_datasets" / f"{country}_{name}_{part}.csv"
                _csv(path, pd.DataFrame(columns), header=False)


def _ali_ccp(raw):
    def pack(ids):
        return "\x01".join(f"{field}\x02{one}\x031.0" for field, one in ids)

    for part in ("train", "test"):
        common = []
        for i in range(8):
            user = [(field, field + i) for field in (121, 122, 124, 125, 126, 127, 128, 129)]
            common.append(f"c{i},11,{pack([(101, 7000 + i), *[('109_14', 5)] * (1 + 9000 * (i == 3)), *user])}")
        _lines(raw / f"common_features_{part}.csv", common)
        rows = []
        for i in range(N):
            fields = [(205, i % 11), (206, 3), (207, 4), (216, 5), (508, 9), (509, 8), (702, 7), (301, 9351 + i % 3)]
            rows.append(f"{i},{i % 2},{int(i % 6 == 1)},c{i % 8},8,{pack(fields)}")
        _lines(raw / f"sample_skeleton_{part}.csv", rows)


def _douban(raw):
    for domain in ("book", "music", "movie"):
        rows = [f'"{i % 15}"\t{i % 20}\t{i % 5 + 1}\t书|爱\t好 "看" 的\t2012-05-0{i % 9 + 1}\t{i}' for i in range(N)]
        header = f"user_id\t{domain}_id\trating\tlabels\tcomment\ttime\tID"
        _lines(raw / f"{domain}reviews_cleaned.txt", [header, *rows])
    users = [f"{i}\t北京\t2007-07-1{i % 10}\thello" for i in range(14)]
    _lines(raw / "users_cleaned.txt", ["UID\tliving_place\tjoin_time\tself_statement", *users])


def _ciao(raw):
    raw.mkdir(exist_ok=True)
    matrix = np.stack([_of(12), _of(20), _of([1, 2, 3]), _of(range(1, 6)), _of(5)], axis=1)
    savemat(raw / "rating.mat", {"rating": matrix.astype(np.uint16)})
    savemat(raw / "trustnetwork.mat", {"trustnetwork": matrix[:, :2]})


def _epinions(raw):
    raw.mkdir(exist_ok=True)
    matrix = np.stack([_of(12), _of(20), _of([1, 2]), _of(range(1, 6)), _of(5), 967359600 + np.arange(N)], axis=1)
    savemat(raw / "rating_with_timestamp.mat", {"rating_with_timestamp": matrix.astype(float)})


def _yelp(raw):
    ids = zip(_of(15), _of(24), _of(range(1, 6)), strict=True)
    other = {"useful": 0, "funny": 0, "cool": 0, "text": "ok\nfine", "review_id": "r"}
    rows = [{"user_id": f"u{u}", "business_id": f"b{b}", "stars": float(s), **other} for u, b, s in ids]
    rows = [row | {"date": f"2018-07-07 22:{i // 60:02}:{i % 60:02}"} for i, row in enumerate(rows)]
    _json(raw / "yelp_academic_dataset_review.json.gz", rows)
    states = ["PA", "FL", "LA", "TN", "MO", "AZ"]
    other = {"name": "A  B", "city": "Old City", "attributes": None, "categories": "Doctors, Health & Medical"}
    shops = [{"business_id": f"b{i}", "state": states[i % 6], **other} for i in range(24)]
    _json(raw / "yelp_academic_dataset_business.json.gz", shops)


SAMPLES = {
    "mind-small": (_mind, 240, 4),
    "frappe": (_frappe, N, 4),
    "tenrec": (_tenrec, 3 * N, 2),
    "aliexpress": (aliexpress, 4 * N, 2),
    "ali-ccp": (_ali_ccp, 2 * N, 3),
    "douban": (_douban, 3 * N, 3),
    "ciao": (_ciao, N, 3),
    "epinions": (_epinions, N, 2),
    "yelp": (_yelp, N, 6),
    "ml-100k-grouplens": (_movielens_100k, N, 3),
    "ml-10m": (_movielens_10m, N, 5),
    "ml-32m": (movielens, N, 5),
    "kuairand-pure": (kuairand, 2 * N, 5),
    "kuairand-27k": (lambda raw: kuairand(raw, "27k", ("_part1", "_part2")), 4 * N, 5),
    "kuaisar": (_kuaisar, 2 * N, 2),
    "amazon-2018": (amazon_2018, 2 * N, 2),
    "amazon-2023": (_amazon_2023, 2 * N, 2),
}
"""By name: what writes the raw files, their rows, and the scenarios that the preset makes of them."""
