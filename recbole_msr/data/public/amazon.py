"""Amazon reviews, several categories as scenarios, with titles.

Those of 2018 (Ni et al., EMNLP 2019) and of 2023 (Hou et al., 2024):
https://nijianmo.github.io/amazon and https://amazon-reviews-2023.github.io. Each file of reviews in the raw folder is a
scenario, called as the file is.
"""

from __future__ import annotations

import pyarrow as pa

from recbole_msr.data.public.columns import joined, key, label, milliseconds, number, plain_text, token, words
from recbole_msr.data.public.spec import JsonForm, PublicSet, Published, Raw, Table

_TEXT, _TEXTS, _NUMBER = pa.string(), pa.list_(pa.string()), pa.float64()
_REVIEWED_2018 = JsonForm(
    {"reviewerID": _TEXT, "asin": _TEXT, "overall": _NUMBER, "unixReviewTime": pa.int64()},
    ("reviewerID", "asin", "overall"),
)
_PRODUCT_2018 = JsonForm({"asin": _TEXT, "title": _TEXT, "brand": _TEXT, "category": _TEXTS}, ("asin",))
_REVIEWED_2023 = JsonForm(
    {"user_id": _TEXT, "parent_asin": _TEXT, "rating": _NUMBER, "timestamp": pa.int64()},
    ("user_id", "parent_asin", "rating"),
)
_PRODUCT_2023 = JsonForm(
    {"parent_asin": _TEXT, "title": _TEXT, "store": _TEXT, "main_category": _TEXT, "categories": _TEXTS},
    ("parent_asin",),
)
_5_CORE = {  # reviews by category, as the page of 2018 lists them
    "AMAZON_FASHION": 3_176, "All_Beauty": 5_269, "Appliances": 2_277, "Arts_Crafts_and_Sewing": 494_485,
    "Automotive": 1_711_519, "Books": 27_164_983, "CDs_and_Vinyl": 1_443_755, "Cell_Phones_and_Accessories": 1_128_437,
    "Clothing_Shoes_and_Jewelry": 11_285_464, "Digital_Music": 169_781, "Electronics": 6_739_590, "Gift_Cards": 2_972,
    "Grocery_and_Gourmet_Food": 1_143_860, "Home_and_Kitchen": 6_898_955, "Industrial_and_Scientific": 77_071,
    "Kindle_Store": 2_222_983, "Luxury_Beauty": 34_278, "Magazine_Subscriptions": 2_375, "Movies_and_TV": 3_410_019,
    "Musical_Instruments": 231_392, "Office_Products": 800_357, "Patio_Lawn_and_Garden": 798_415,
    "Pet_Supplies": 2_098_325, "Prime_Pantry": 137_788, "Software": 12_805, "Sports_and_Outdoors": 2_839_940,
    "Tools_and_Home_Improvement": 2_070_831, "Toys_and_Games": 1_828_971, "Video_Games": 497_577,
}  # fmt: skip
_2023 = {
    "All_Beauty": Published("701.5K", "632.0K", "112.6K"),
    "Amazon_Fashion": Published("2.5M", "2.0M", "825.9K"),
    "Appliances": Published("2.1M", "1.8M", "94.3K"),
    "Arts_Crafts_and_Sewing": Published("9.0M", "4.6M", "801.3K"),
    "Automotive": Published("20.0M", "8.0M", "2.0M"),
    "Baby_Products": Published("6.0M", "3.4M", "217.7K"),
    "Beauty_and_Personal_Care": Published("23.9M", "11.3M", "1.0M"),
    "Books": Published("29.5M", "10.3M", "4.4M"),
    "CDs_and_Vinyl": Published("4.8M", "1.8M", "701.7K"),
    "Cell_Phones_and_Accessories": Published("20.8M", "11.6M", "1.3M"),
    "Clothing_Shoes_and_Jewelry": Published("66.0M", "22.6M", "7.2M"),
    "Digital_Music": Published("130.4K", "101.0K", "70.5K"),
    "Electronics": Published("43.9M", "18.3M", "1.6M"),
    "Gift_Cards": Published("152.4K", "132.7K", "1.1K"),
    "Grocery_and_Gourmet_Food": Published("14.3M", "7.0M", "603.2K"),
    "Handmade_Products": Published("664.2K", "586.6K", "164.7K"),
    "Health_and_Household": Published("25.6M", "12.5M", "797.4K"),
    "Health_and_Personal_Care": Published("494.1K", "461.7K", "60.3K"),
    "Home_and_Kitchen": Published("67.4M", "23.2M", "3.7M"),
    "Industrial_and_Scientific": Published("5.2M", "3.4M", "427.5K"),
    "Kindle_Store": Published("25.6M", "5.6M", "1.6M"),
    "Magazine_Subscriptions": Published("71.5K", "60.1K", "3.4K"),
    "Movies_and_TV": Published("17.3M", "6.5M", "747.8K"),
    "Musical_Instruments": Published("3.0M", "1.8M", "213.6K"),
    "Office_Products": Published("12.8M", "7.6M", "710.4K"),
    "Patio_Lawn_and_Garden": Published("16.5M", "8.6M", "851.7K"),
    "Pet_Supplies": Published("16.8M", "7.8M", "492.7K"),
    "Software": Published("4.9M", "2.6M", "89.2K"),
    "Sports_and_Outdoors": Published("19.6M", "10.3M", "1.6M"),
    "Subscription_Boxes": Published("16.2K", "15.2K", 641),
    "Tools_and_Home_Improvement": Published("27.0M", "12.2M", "1.5M"),
    "Toys_and_Games": Published("16.3M", "8.1M", "890.7K"),
    "Unknown": Published("63.8M", "23.1M", "13.2M"),
    "Video_Games": Published("4.6M", "2.8M", "137.2K"),
}
_2018_COLUMNS = {
    "user_id": key("reviewerID"),
    "item_id": key("asin"),
    "rating": label("overall"),
    "timestamp": number("unixReviewTime"),
    "domain": key("domain"),
}
_2023_COLUMNS = {
    "user_id": key("user_id"),
    "item_id": key("parent_asin"),
    "rating": label("rating"),
    "timestamp": number("timestamp", convert=milliseconds),
    "domain": key("domain"),
}


def _products(name: str, form: JsonForm, item: str, brand: str, categories: str) -> Table:
    columns = {
        "item_id": key(item),
        "title": words("title"),
        "brand": token(brand, convert=plain_text),
        "categories": words(categories, convert=joined),
    }
    return Table((Raw(name, form, named="domain"),), columns, only_used=True)


SETS = (
    PublicSet(
        "amazon-2018",
        Table((Raw("*_5.json", _REVIEWED_2018, named="domain"),), _2018_COLUMNS),
        item=_products("meta_*.json", _PRODUCT_2018, "asin", "brand", "category"),
        preset="amazon",
        counted_by="domain",
        published={domain: Published(rows) for domain, rows in _5_CORE.items()},
        source="the page of 2018, 5-core",
    ),
    PublicSet(
        "amazon-2023",
        Table((Raw("*.jsonl", _REVIEWED_2023, named="domain", unlike="meta_*.jsonl"),), _2023_COLUMNS),
        item=_products("meta_*.jsonl", _PRODUCT_2023, "parent_asin", "store", "categories"),
        preset="amazon",
        counted_by="domain",
        published=_2023,
        source="the page of 2023",
    ),
)
