"""Entities, their names as CLDR has them in each language, and the entities that worldfacts leaves out.

A name is read from CLDR's file of the language itself, never a code or a fallback. CLDR 47 serves user interfaces, not
encyclopaedias, so the tables below exclude what would make a false or an ugly sentence, each with its reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from babel import localedata
from babel.core import get_global

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""The languages of XQuAD-R."""

Kind = Literal["city", "code", "continent", "country", "currency", "day", "language", "script", "zone"]

# CLDR leaves a city out if its English name, the end of the zone id, is also right in the language.
_SPELT_LIKE_ENGLISH = ("de", "en", "es", "tr", "vi")
_LATIN = re.compile(r"[A-Za-z]")
# `Hindi (lateinisch)`, `Knox, Indiana`: labels of a menu, not names for running text.
_LABEL = re.compile(r"[(),（）]")
_SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u00ad": None})


@dataclass(frozen=True, slots=True, order=True)
class Entity:
    """Something that CLDR names."""

    kind: Kind
    code: str
    """CLDR's key, such as `KE`, `sw` or `Africa/Nairobi`; for the kind `code`, `country:KE` with the name `KE`."""


# --- What is left out -------------------------------------------------------------------------------------------------


def _code_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Dependencies, disputed or uninhabited territories and groupings: our sentences call every territory a country.
NOT_COUNTRIES = _code_set("""
    AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH EU EZ FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE KY MF
    MO MP MQ MS NC NF NU PF PM PN PR PS QO RE SH SJ SX TA TC TF TK TW UM UN VG VI WF XA XB XK YT ZZ
""")

# Bulgaria has paid in euros since January 2026, which CLDR 47 does not know.
OUTDATED_CURRENCIES = _code_set("BG")

# Where CLDR's list of official languages is outdated (BF ML NE dropped French, IL Arabic, MG English; LS RW added
# some), counts languages of no legal rank (DZ ER MU NG SO TN), names the wrong one (ME) or only some of several (the
# rest).
UNSURE_OFFICIAL_LANGUAGES = _code_set("""
    BF BO CH DZ EC ER IL IQ LS ME MG MK ML MU NE NG NZ PE PG RW SC SO TN VE ZA ZW
""")

# The zone id names a continent on which geographers do not agree (AM AZ CY GE), or the one that holds less land (TR).
UNSURE_CONTINENTS = _code_set("AM AZ CY GE TR")

# Hans and Hant are called `Simplified` and `Traditional`, Cans a whole phrase; the rest are variants or no scripts.
UNNAMED_SCRIPTS = _code_set("Cans Hans Hant Zxxx Zyyy Zinh Zsye Zsym Zmth Zzzz Latg Latf Phlp Phli")
# Languages of several scripts, of which CLDR's choice is doubtful.
UNSURE_SCRIPTS = _code_set("ase bej hif hnj ie kaa kaw kho kxv man mde mni pi rom sr swb zen")

# Collections and invented or unknown languages.
NOT_LANGUAGES = _code_set("afh art eo ia ie io jbo mis mul nov root rom tlh tok und vo zbl zxx")

# Dead languages and jargons, which are at home nowhere; worldwide ones, of which CLDR gives the largest country; and
# those of peoples across borders, for whom one country is an opinion.
NO_HOME = _code_set("""
    ae akk ang arc chg chn cop cu dum egy enm frm fro gez gmh goh got grc hit jpr jrb kaw kho la lzh mga non nwc ota pal
    peo phn pi prg pro sa sam sga sog sux syc uga xcr
    ar ase en es fr pt
    ab az bal bar ckb crh dyu fan ff hmn hnj kj ks ku lad man os pa pdt ps rom rup sdh syr tmh ur yao yi zza
""")

# Zones whose `city` is a country, a region, an island, a base or a hamlet, is disputed, or comes with a suffix in
# some languages (`Knox, Indiana`).
NOT_CITIES = _code_set("""
    America/Antigua America/Argentina/Catamarca America/Argentina/Jujuy America/Bahia America/Bahia_Banderas
    America/Barbados America/Belize America/Costa_Rica America/Dominica America/El_Salvador America/Grenada
    America/Guatemala America/Guyana America/Indiana/Knox America/Indiana/Marengo America/Indiana/Petersburg
    America/Indiana/Tell_City America/Indiana/Vevay America/Indiana/Vincennes America/Indiana/Winamac
    America/Kentucky/Monticello America/North_Dakota/Beulah America/North_Dakota/Center America/North_Dakota/New_Salem
    America/Jamaica America/Noronha America/Panama America/St_Kitts America/St_Lucia
    America/St_Vincent America/Atikokan America/Blanc-Sablon America/Cambridge_Bay America/Coral_Harbour
    America/Creston America/Danmarkshavn America/Fort_Nelson America/Glace_Bay America/Goose_Bay America/Metlakatla
    America/Rankin_Inlet America/Resolute America/Yakutat Antarctica/Macquarie Asia/Bahrain Asia/Brunei
    Asia/Famagusta Asia/Ho_Chi_Minh Asia/Jerusalem Asia/Kamchatka Asia/Khandyga Asia/Kuwait Asia/Qatar Asia/Sakhalin
    Asia/Singapore Asia/Ust-Nera Atlantic/Azores Atlantic/Canary Atlantic/Cape_Verde Atlantic/Madeira Australia/Eucla
    Australia/Lindeman Australia/Lord_Howe Europe/Andorra Europe/Busingen Europe/Luxembourg Europe/Malta Europe/Monaco
    Europe/San_Marino Europe/Simferopol Europe/Vatican Indian/Comoro Indian/Mahe Indian/Maldives Indian/Mauritius
    Pacific/Bougainville Pacific/Chatham Pacific/Chuuk Pacific/Easter Pacific/Efate Pacific/Fiji Pacific/Funafuti
    Pacific/Galapagos Pacific/Guadalcanal Pacific/Kanton Pacific/Kiritimati Pacific/Kosrae Pacific/Kwajalein
    Pacific/Majuro Pacific/Nauru Pacific/Palau Pacific/Pohnpei Pacific/Tarawa Pacific/Tongatapu
""")

# Volgograd has kept Moscow's time since 2020.
OUTDATED_ZONES = _code_set("Volgograd")

WRONG_NAMES = frozenset(
    {
        ("ar", "language", "den"),  # the Slavic language
        ("ar", "language", "gil"),  # the language of Gibraltar
        ("de", "language", "mag"),  # Khotta
        ("el", "language", "hax"),  # Northern Haida
        ("el", "language", "kea"),  # `language of Cape Verde`, which takes another article
        ("el", "language", "pon"),  # of Pompeii
        ("es", "city", "America/Mexico_City"),  # `la ciudad de Ciudad de México`
        ("es", "script", "Inds"),  # Indian
        ("es", "script", "Ital"),  # old italics
        ("hi", "language", "dum"),  # Middle Portuguese
        ("hi", "language", "yi"),  # Jew
        ("ru", "language", "ikt"),  # Eastern Canadian
        ("ru", "language", "kj"),  # Kunama, another language
        ("ru", "language", "rwk"),  # Rwanda
        ("ru", "script", "Tfng"),  # Old Libyan
        ("zh", "script", "Mand"),  # Aramaic
        ("zh", "script", "Osma"),  # Ottoman
    }
)


# --- Names ------------------------------------------------------------------------------------------------------------


@cache
def entity_name(entity: Entity, language: str) -> str | None:
    """The name of an entity in a language, in its citation form; None if CLDR has none that fits into a sentence."""
    if (language, entity.kind, entity.code) in WRONG_NAMES:
        return None
    known = _cldr_name(entity, localedata.load(language), language)
    if not isinstance(known, str) or not known.strip():
        return None
    if entity.kind in ("city", "country", "language", "script"):
        is_borrowed = language not in _SPELT_LIKE_ENGLISH and _LATIN.search(known)
        is_label = entity.kind != "country" and _LABEL.search(known)
        if is_borrowed or is_label:
            return None
    return known.translate(_SPACES)


def _cldr_name(entity: Entity, data: Any, language: str) -> object:
    code = entity.code
    match entity.kind:
        case "code":
            return code.partition(":")[2]
        case "country" | "continent":
            return data["territories"].get(code)
        case "language" | "script":
            return data[f"{entity.kind}s"].get(code)
        case "currency":
            # English display names are titles (`Kenyan Shilling`); the counted form is what a sentence needs.
            titled = data["currency_names"].get(code)
            return data["currency_names_plural"].get(code, {}).get("one", titled) if language == "en" else titled
        case "day":
            return data["days"]["format"]["wide"].get(int(code))
        case "zone":
            long = data["meta_zones"].get(code, {}).get("long", {})
            # `generic` covers summer and winter; zones without summer time have `standard` only.
            return long.get("generic", long.get("standard"))
        case "city":
            return _city_name(code, data, language)


def _city_name(zone: str, data: Any, language: str) -> object:
    for key in (zone, *_former_ids().get(zone, ())):
        known = data["time_zones"].get(key, {}).get("city")
        if known:
            return known
    return zone.rsplit("/", 1)[-1].replace("_", " ") if language in _SPELT_LIKE_ENGLISH else None


@cache
def _former_ids() -> dict[str, tuple[str, ...]]:
    """CLDR keys its names by the first id a zone ever had (`Asia/Calcutta`), babel its territories by the last."""
    former: dict[str, tuple[str, ...]] = {}
    for old, new in get_global("zone_aliases").items():
        former[new] = (*former.get(new, ()), old)
    return former
