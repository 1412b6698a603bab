"""Answers a SuperNode's messages with the installed version of this app, in one process.

By default Flower runs the code that the coordinator sends with every run, in a new process for each
message. A hospital reviews and installs one version instead. With ``flower-supernode --isolation
process`` the runner therefore asks the SuperNode for work on the loopback interface and answers
with this package; it does not open the code that came with the run, and the run must be of the
installed version. As the process stays, it loads the libraries once and not for every message.
"""

import time
from collections.abc import Callable
from importlib import metadata
from logging import ERROR, INFO, WARNING

import grpc
from flwr.app import Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import log
from flwr.common.grpc import create_channel
from flwr.proto.appio_pb2 import ListAppsToLaunchRequest, RequestTokenRequest
from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub
from flwr.proto.heartbeat_pb2 import SendAppHeartbeatRequest
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supernode.runtime.run_clientapp import pull_appinputs, push_appoutputs

from client_app.app import app
from client_app.guard import guard
from client_app.site import open_site
from common.messages import Failure

PACKAGE = "rate-my-lora"
POLL_S = 0.5


class Runner:
    """Answers a SuperNode's messages, one after the other.

    Parameters
    ----------
    address
        ``host:port`` of the SuperNode's ClientAppIo API.
    """

    def __init__(self, address: str) -> None:
        self.channel = create_channel(server_address=address, insecure=True)
        self.stub = ClientAppIoStub(self.channel)
        self.run_id: int | None = None

    def serve(self, alive: Callable[[], bool]) -> None:
        """Answer messages until ``alive`` says that the SuperNode has ended."""
        while alive():
            try:
                if not self.step():
                    time.sleep(POLL_S)
            except grpc.RpcError as error:  # the SuperNode starts, ends or has given the message up
                log(ERROR, "SuperNode: %s", _reason(error))
                time.sleep(POLL_S)
        self.channel.close()

    def step(self) -> bool:
        """Answer one message; return False if there is none."""
        candidates = self.stub.ListAppsToLaunch(ListAppsToLaunchRequest()).run_ids
        if not candidates:
            return False
        token = self.stub.RequestToken(RequestTokenRequest(run_id=candidates[0])).token
        if not token:
            return False
        heartbeat = HeartbeatSender(lambda: self._beat(token))
        heartbeat.start()
        try:
            message, context, run, _ = pull_appinputs(stub=self.stub, token=token)
            if run.run_id != self.run_id:  # the site's data may have changed since the last run
                open_site.cache_clear()
                self.run_id = run.run_id
            wrong = version_error(run.fab_id, run.fab_version)
            reply = guard(message, context, _refuse(wrong)) if wrong else app(message, context)
            push_appoutputs(stub=self.stub, token=token, message=reply, context=context)
        finally:
            heartbeat.stop()
        return True

    def _beat(self, token: str) -> bool:
        """Tell the SuperNode that the app works on the message; return False to try again soon.

        After a machine has slept for a minute, its SuperNode has given the message up. Flower's
        own heartbeat then ends the process; this one lets it go on to the next message.
        """
        try:
            if not self.stub.SendAppHeartbeat(SendAppHeartbeatRequest(token=token)).success:
                log(WARNING, "the SuperNode no longer waits for this answer")
        except grpc.RpcError:
            return False
        return True


def version_error(app_id: str, version: str) -> str:
    """Return an error text if a run is of another app or version than is installed, else ""."""
    installed = metadata.version(PACKAGE)
    same = app_id.rpartition("/")[2] == PACKAGE
    if same and version == installed:
        return ""
    found = f"version {version}" if same else "another app"
    return f"the run is of {found}, this site has version {installed}"


def _refuse(reason: str) -> ClientAppCallable:
    """Log a reason and return an app that answers every message with it."""
    log(ERROR, "%s", reason)
    return lambda message, _: Message(Failure(reason).to_record(), reply_to=message)


def wait_until_ready(address: str, alive: Callable[[], bool]) -> bool:
    """Wait until something listens at an address; return False if ``alive`` turns false first."""
    channel = create_channel(server_address=address, insecure=True)
    try:
        while alive():
            try:
                grpc.channel_ready_future(channel).result(timeout=1.0)
            except grpc.FutureTimeoutError:
                continue
            log(INFO, "SuperNode is ready")
            return True
        return False
    finally:
        channel.close()


def _reason(error: grpc.RpcError) -> str:
    """Return code and details of a gRPC error."""
    code = error.code() if isinstance(error, grpc.Call) else None
    details = error.details() if isinstance(error, grpc.Call) else str(error)
    return f"{code.name if code else 'error'}: {details}"
