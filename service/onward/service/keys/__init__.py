"""Keys of callers: what each may do, until when and for which tenant, from a file that is followed while serving."""

from onward.service.keys.file import KeysFileError, add_key, parse_keys, read_keys, remove_key
from onward.service.keys.key import SCOPES, Key, Scope, parse_expiry
from onward.service.keys.key_ring import KeyRing, key_ring

__all__ = [
    "SCOPES",
    "Key",
    "KeyRing",
    "KeysFileError",
    "Scope",
    "add_key",
    "key_ring",
    "parse_expiry",
    "parse_keys",
    "read_keys",
    "remove_key",
]
