"""The types of what calls return, under the name that Modal has for them."""

from skerry.client.fileinfo import FileInfo as FileInfo
from skerry.client.filewatch import FileWatchEvent as FileWatchEvent
from skerry.client.filewatch import FileWatchEventType as FileWatchEventType
