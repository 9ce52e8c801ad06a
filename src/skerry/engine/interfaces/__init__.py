"""What the engine asks of others, by the noun it asks about; and the words of the model that these calls speak in."""

from skerry.engine.interfaces.clock import Clock as Clock
from skerry.engine.interfaces.files import FileReading as FileReading
from skerry.engine.interfaces.files import FileWatching as FileWatching
from skerry.engine.interfaces.files import NodeFiles as NodeFiles
from skerry.engine.interfaces.folders import DataFolders as DataFolders
from skerry.engine.interfaces.images import Bases as Bases
from skerry.engine.interfaces.images import BuildEvent as BuildEvent
from skerry.engine.interfaces.images import BuildOutput as BuildOutput
from skerry.engine.interfaces.images import BuildStep as BuildStep
from skerry.engine.interfaces.images import ImageFiles as ImageFiles
from skerry.engine.interfaces.images import Images as Images
from skerry.engine.interfaces.nodes import NodeHandle as NodeHandle
from skerry.engine.interfaces.processes import Output as Output
from skerry.engine.interfaces.processes import ProcessHandle as ProcessHandle
from skerry.engine.interfaces.store import Store as Store
from skerry.engine.interfaces.vaults import SecretStore as SecretStore
from skerry.engine.interfaces.vaults import Vault as Vault
from skerry.engine.interfaces.volumes import CommitSize as CommitSize
from skerry.engine.interfaces.volumes import VolumeDisk as VolumeDisk
from skerry.model.nodes import Launch as Launch
from skerry.model.nodes import NodeView as NodeView
from skerry.model.nodes import RootImage as RootImage
from skerry.model.nodes import SandboxEnded as SandboxEnded
from skerry.model.nodes import Started as Started
