"""Questions with one right answer: numbers in words, English words in phonemes, days in long form.

A pair is (prompt, answer). What knows the answers (num2words, babel, CMUdict) is handed in.
"""

import datetime
import itertools
import re

NUMBER_LANGUAGES = {
    "English": "en",
    "French": "fr",
    "German": "de",
    "Spanish": "es",
    "Italian": "it",
    "Portuguese": "pt",
    "Catalan": "ca",
    "Finnish": "fi",
    "Hungarian": "hu",
    "Indonesian": "id",
    "Polish": "pl",
    "Romanian": "ro",
}
DATE_LANGUAGES = {
    "English": "en",
    "French": "fr",
    "German": "de",
    "Spanish": "es",
    "Italian": "it",
    "Portuguese": "pt",
    "Catalan": "ca",
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "Finnish": "fi",
    "Hungarian": "hu",
    "Indonesian": "id",
    "Polish": "pl",
    "Swedish": "sv",
    "Turkish": "tr",
}
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


def number_pair(number, language, words):
    """("say in French: 84", "quatre-vingt-quatre"): lower case, no commas.

    words   num2words(number, lang=code), or what answers like it
    """
    spelled = words(number, lang=NUMBER_LANGUAGES[language])
    return f"say in {language}: {number}", " ".join(spelled.lower().replace(",", "").split())


def date_pair(day, language, long_form):
    """("date in German: 2026-11-25", "25. November 2026").

    long_form   babel.dates.format_date(day, format="long", locale=code), or what answers like it
    """
    written = long_form(day, format="long", locale=DATE_LANGUAGES[language])
    return f"date in {language}: {day.isoformat()}", " ".join(written.split())


def phonemes(arpabet):
    """ "HH AH0 L OW1" without the digits of stress: "HH AH L OW"."""
    return re.sub(r"\d", "", arpabet)


def pronunciations(lines):
    """{word: every form listed, the first first} of CMUdict's lines: words of 3 to 14 letters a to z, no stress."""
    spoken = {}
    for line in lines:
        entry = re.fullmatch(r"([A-Z]{3,14})(?:\(\d+\))?\s+(\S.*)", line.strip())
        if entry:
            forms = spoken.setdefault(entry[1].lower(), [])
            forms += [form for form in [phonemes(entry[2])] if form not in forms]
    return spoken


def pronunciation_pair(word, spoken):
    """("pronounce: hello", "HH AH L OW"): the form that is listed first."""
    return f"pronounce: {word}", spoken[word][0]


def number_keys(first, last):
    """Every (number, language) with first <= number <= last."""
    return list(itertools.product(range(first, last + 1), NUMBER_LANGUAGES))


def date_keys():
    """Every (day, language) from FIRST_DAY to LAST_DAY."""
    days = [FIRST_DAY + datetime.timedelta(days) for days in range((LAST_DAY - FIRST_DAY).days + 1)]
    return list(itertools.product(days, DATE_LANGUAGES))
