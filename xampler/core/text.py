"""Identity of texts."""

import hashlib
import unicodedata


def normalise_text(text: str) -> str:
    """The form in which texts are compared: Unicode NFC, outer blanks removed."""
    return unicodedata.normalize("NFC", text).strip()


def text_id(task_name: str, lang: str, text: str) -> str:
    """Content hash (32 hexadecimal digits): same task, language and text, same id, on every machine."""
    return stable_hash(task_name, lang, normalise_text(text))


def stable_hash(*parts: str) -> str:
    """128-bit hash (32 hexadecimal digits) of the parts; a part's length is hashed with it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def stable_fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone: for splits and draws that must not change."""
    return int(stable_hash(*parts)[:13], 16) / 16**13
