"""What is left out of worldfacts though CLDR has it, and why. CLDR 47 serves user interfaces, not encyclopaedias."""

from __future__ import annotations


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Dependencies, disputed or uninhabited territories and groupings: our sentences call every territory a country.
NOT_COUNTRIES = _codes("""
    AC AI AQ AS AW AX BL BM BQ BV CC CK CP CQ CW CX DG EA EH EU EZ FK FO GF GG GI GL GP GS GU HK HM IC IM IO JE KY MF
    MO MP MQ MS NC NF NU PF PM PN PR PS QO RE SH SJ SX TA TC TF TK TW UM UN VG VI WF XA XB XK YT ZZ
""")

# Bulgaria has paid in euros since January 2026, which CLDR 47 does not know.
OUTDATED_CURRENCIES = _codes("BG")

# Where CLDR's list of official languages is outdated (BF ML NE dropped French, IL Arabic, MG English; LS RW added
# some), counts languages of no legal rank (DZ ER MU NG SO TN), names the wrong one (ME) or only some of several (the
# rest).
UNSURE_OFFICIAL_LANGUAGES = _codes("""
    BF BO CH DZ EC ER IL IQ LS ME MG MK ML MU NE NG NZ PE PG RW SC SO TN VE ZA ZW
""")

# The zone id names a continent on which geographers do not agree (AM AZ CY GE), or the one that holds less land (TR).
UNSURE_CONTINENTS = _codes("AM AZ CY GE TR")

# Hans and Hant are called `Simplified` and `Traditional`, Cans a whole phrase; the rest are variants or no scripts.
UNNAMED_SCRIPTS = _codes("Cans Hans Hant Zxxx Zyyy Zinh Zsye Zsym Zmth Zzzz Latg Latf Phlp Phli")
# Languages of several scripts, of which CLDR's choice is doubtful.
UNSURE_SCRIPTS = _codes("ase bej hif hnj ie kaa kaw kho kxv man mde mni pi rom sr swb zen")

# Collections and invented or unknown languages.
NOT_LANGUAGES = _codes("afh art eo ia ie io jbo mis mul nov root rom tlh tok und vo zbl zxx")

# Dead languages and jargons, which are at home nowhere; worldwide ones, of which CLDR gives the largest country; and
# those of peoples across borders, for whom one country is an opinion.
NO_HOME = _codes("""
    ae akk ang arc chg chn cop cu dum egy enm frm fro gez gmh goh got grc hit jpr jrb kaw kho la lzh mga non nwc ota pal
    peo phn pi prg pro sa sam sga sog sux syc uga xcr
    ar ase en es fr pt
    ab az bal bar ckb crh dyu fan ff hmn hnj kj ks ku lad man os pa pdt ps rom rup sdh syr tmh ur yao yi zza
""")

# Zones whose `city` is a country, a region, an island, a base or a hamlet, is disputed, or comes with a suffix in
# some languages (`Knox, Indiana`).
NOT_CITIES = _codes("""
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
OUTDATED_ZONES = _codes("Volgograd")

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
