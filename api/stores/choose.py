"""Which storage the settings mean, checked before anything starts."""

from __future__ import annotations

import logging

from api.settings import Settings, SettingsError
from api.storage import Storage, StorageUnavailable
from api.stores.local import LocalStorage
from api.stores.s3 import S3Storage

log = logging.getLogger(__name__)

_KEYS = "CROSSKD_STORAGE_ACCESS_KEY_ID and CROSSKD_STORAGE_SECRET_ACCESS_KEY (or AWS_ACCESS_KEY_ID and so on)"
_REFUSALS = {
    "NoSuchBucket": "there is no such bucket; create it, or name another",
    "NoCredentials": f"there are no credentials for the bucket; set {_KEYS}",
    "AccessDenied": f"the bucket may not be written with these credentials; look at its policy and at {_KEYS}",
    "InvalidAccessKeyId": f"the bucket does not know the access key; set {_KEYS}",
    "SignatureDoesNotMatch": f"the secret does not fit the access key; set {_KEYS}",
    "ExpiredToken": f"the session token has expired; set {_KEYS}",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set CROSSKD_STORAGE_REGION (or AWS_REGION)",
    "PermanentRedirect": "the bucket is at another endpoint; set CROSSKD_STORAGE_ENDPOINT and CROSSKD_STORAGE_REGION",
}


def open_storage(settings: Settings) -> Storage:
    """The bucket of CROSSKD_STORAGE_URL, else the folder of CROSSKD_STORAGE.

    Raises:
        SettingsError: the bucket refuses us. One that does not answer may come: readiness tells of it.
    """
    if settings.storage_url is None:
        return LocalStorage(settings.storage)
    if (settings.storage_access_key_id is None) != (settings.storage_secret_access_key is None):
        raise SettingsError(f"CROSSKD_STORAGE_URL: an access key needs its secret, and a secret its key; set {_KEYS}")
    storage = S3Storage(settings)
    try:
        storage.probe()
    except StorageUnavailable as away:
        if refusal := _REFUSALS.get(away.code):
            raise SettingsError(f"CROSSKD_STORAGE_URL: {refusal}") from None
        log.warning("the storage does not work yet: %s", away)
    return storage
