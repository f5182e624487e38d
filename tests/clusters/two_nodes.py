"""A real Slurm of two nodes with two make-believe GPUs each, on the loopback interface of one machine, for tests.

It reads and writes nothing outside its own folder: /etc/slurm of a machine that belongs to a cluster is not touched.
"""

import os
import re
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from conffusion.errors import ConffusionError
from tests.clusters.keeper import descendants

NODES = ("node1", "node2")
CPUS, MEMORY_MB, GPUS = 2, 32_000, 2  # of each node, as Slurm counts them
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
_PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
_KEEPER = Path(__file__).with_name("keeper.py")

_CONFIGURATION = """\
ClusterName=conffusion-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=2
GresTypes=gpu
JobRequeue=1
SlurmdTimeout=10
KillWait=5
ReturnToService=2
MinJobAge=3600
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {size}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {size}
PartitionName=cpu Nodes=node1,node2 Default=YES MaxTime=3-0
PartitionName=gpu Nodes=node1,node2 MaxTime=3-0
"""


class TwoNodes:
    """The cluster, running inside a `with` block.

    Attributes:
        environment: For processes that use the cluster. Its PATH has an `srun` that finds this cluster although the
            executor plugin drops SLURM_CONF.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keepers: dict[str, subprocess.Popen[bytes]] = {}
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        self.environment = {
            **own,
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{_PATH}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Self:
        try:
            self._configure()
            self._keep("munged", "munged", "--foreground", "--force", *self._munge_files())
            self._keep("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            self.wait_for_nodes(2)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def command(self, *arguments: str) -> str:
        """Output of a Slurm command."""
        return subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """What Slurm knows of every job so far, ended ones too: JobState, NodeList, Partition, Comment, ..."""
        lines = self.command("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]

    def commands(self, node: str) -> list[str]:
        """Command lines of what runs on a node."""
        lines = []
        for process in descendants(self._keepers[node].pid):
            with suppress(OSError):  # it ended meanwhile
                lines.append(Path(f"/proc/{process}/cmdline").read_text().replace("\0", " "))
        return lines

    def start_node(self, node: str) -> None:
        self._keep(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """What a power cut does: daemon, step daemons and jobs of the node are gone."""
        self._end(node)

    def wait_for_nodes(self, number: int, seconds: float = 60) -> None:
        """Wait until so many nodes take jobs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            shown = subprocess.run(
                ["sinfo", "--Node", "--noheader", "--partition=cpu", "--states=idle,mixed,allocated", "--format=%n %t"],
                env=self.environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if len([line for line in shown.stdout.splitlines() if "*" not in line]) == number:
                return
            time.sleep(0.2)
        raise ConffusionError(f"the nodes did not come up: {shown.stderr}\n{self.logs()}")

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self._folder.glob("*.log")))

    def _configure(self) -> None:
        folder = self._folder
        for name in ("state", "bin", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        for node in NODES:
            for k in range(GPUS):
                os.mknod(folder / f"{node}-gpu{k}", stat.S_IFCHR | 0o666, os.makedev(1, 3))  # as /dev/null
        size = f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
        host = socket.gethostname().partition(".")[0]
        (folder / "slurm.conf").write_text(
            _CONFIGURATION.format(host=host, ports=_free_ports(3), folder=folder, size=size)
        )
        (folder / "gres.conf").write_text(
            "".join(f"NodeName={node} Name=gpu File={folder}/{node}-gpu[0-{GPUS - 1}]\n" for node in NODES)
        )
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainDevices=no\n")
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        srun = folder / "bin" / "srun"
        real = shutil.which("srun", path=_PATH)
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {real} "$@"\n')
        srun.chmod(0o755)

    def _munge_files(self) -> list[str]:
        names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [f"--{option}={self._folder}/munge.{end}" for option, end in names.items()]

    def _keep(self, name: str, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=_PATH)
        with (self._folder / f"{name}.out.log").open("ab") as log:
            self._keepers[name] = subprocess.Popen(
                [sys.executable, _KEEPER, str(found), *arguments],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip

    def _end(self, name: str) -> None:
        keeper = self._keepers.pop(name)
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(timeout=60)

    def _stop(self) -> None:
        for name in [*NODES, "slurmctld", "munged"]:
            if name in self._keepers:
                self._end(name)


def lacking() -> str:
    """Why this machine cannot run the cluster; empty where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd munge"
    if os.geteuid() != 0:
        return "the test cluster's daemons need root"
    return ""


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
