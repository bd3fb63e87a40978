"""Where the parts are joined."""

from service.app import Application
from service.config import Config
from service.database import Database
from service.endpoints import Parts
from service.readiness import Readiness


def build(config: Config) -> Application:
    """The application, with its pool open. Call it after the fork, and close its database at the end."""
    database = Database(config.database_url, config.pool_size)
    return Application(Parts(database, Readiness(config.database_url)), config.callers)
