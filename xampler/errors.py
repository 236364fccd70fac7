"""The error tree.

Every error that the project raises on purpose derives from :class:`XamplerError`. Its message names
what was given, what was expected and, where it is not plain, the remedy; commands print it without a
stack trace and exit with :data:`EXIT_STATUS`.
"""

EXIT_STATUS = 2


class XamplerError(Exception):
    """Base of all errors that a user can mend."""


class ConfigError(XamplerError):
    """A config file or value that does not fit its schema."""


class DataError(XamplerError):
    """Input data that is missing, unreadable or not in the layout that was named."""


class LanguageCodeError(DataError):
    """A string that is no language code."""


class LabelWordError(XamplerError):
    """Label words that the tokenizer cannot score."""


class SchemaError(XamplerError):
    """Rows that do not fit the schema or the constraints of their table."""


class ModelError(XamplerError):
    """A model that cannot be found, reached or loaded."""


class StoreError(XamplerError):
    """A table store that cannot be read or written."""


class TrackingError(XamplerError):
    """An MLflow server or registry entry that cannot be used."""


class SetupError(XamplerError):
    """Something missing on the machine: Java, the Delta jars."""


class TrainingError(XamplerError):
    """Retriever training that cannot start or did not end well."""
