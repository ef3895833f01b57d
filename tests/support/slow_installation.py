"""Installation of packages on a node that takes a given time, as a plugin of Ray's runtime environments."""

import asyncio
import json
import logging
import os
from typing import Any

from ray._private.runtime_env.plugin import RuntimeEnvPlugin

SECONDS_VARIABLE = "SLOW_INSTALLATION_S"  # of the node
PLUGINS = json.dumps([{"class": f"{__name__}.SlowInstallation"}])  # value of RAY_RUNTIME_ENV_PLUGINS


class SlowInstallation(RuntimeEnvPlugin):
    """Plugin whose key in a runtime environment is `slow_installation`."""

    name = "slow_installation"

    async def create(self, uri: str | None, runtime_env: Any, context: Any, logger: logging.Logger) -> float:
        """Wait, and return the number of bytes that were installed."""
        await asyncio.sleep(float(os.environ.get(SECONDS_VARIABLE, "0")))
        return 0
