"""The server's own housekeeping: custom kinds follow their definitions, namespaces empty themselves, dependents follow their owners.

One task works off a queue that commits feed; everything it needs is indexed, so no commit and no job looks at all objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from e2e.apiserver import custom
from e2e.apiserver.errors import ApiError, Obj
from e2e.apiserver.operations import SYSTEM, Cluster, DeleteOptions, Target
from e2e.apiserver.resources import CRDS, NAMESPACES, Resource
from e2e.apiserver.storage import Change, Collection, Key

Job = Callable[[], None]
ABSENT_OWNER_DELAY_S = 0.5


class Housekeeper:
    """Observes commits and acts on them from its own task."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._living: set[str] = set()
        self._dependents: dict[str, dict[tuple[str, Key], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        cluster.dependents = self.dependents
        cluster.store.observers.append(self.observe)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            job = await self._jobs.get()
            job()
            # Requests come first: housekeeping never holds the loop for more than one job.
            await asyncio.sleep(0)

    # what a commit leads to

    def observe(self, collection: Collection, change: Change) -> None:
        obj = change.record.obj
        self._index(collection, change)
        if change.key[0]:
            self._follow_namespace(change)
        if collection.name == NAMESPACES and not change.deleted and "deletionTimestamp" in obj["metadata"]:
            self._jobs.put_nowait(lambda: self.empty_namespace(change.key[1]))
        elif collection.name == CRDS:
            self._follow_definition(change)
        if change.deleted:
            self._follow_instances(collection, change)

    def _index(self, collection: Collection, change: Change) -> None:
        obj, uid = change.record.obj, change.record.obj["metadata"]["uid"]
        before = _owners(change.before.obj) if change.before is not None else set()
        after = set() if change.deleted else _owners(obj)
        place = (collection.name, change.key)
        for owner in before - after:
            held = self._dependents.get(owner, {})
            held.pop(place, None)
            if not held:
                self._dependents.pop(owner, None)
        for owner in after - before:
            self._dependents.setdefault(owner, {})[place] = None
            if owner not in self._living:
                self._later(lambda: self._collect(*place))
        if change.deleted:
            self._living.discard(uid)
            for name, key in tuple(self._dependents.get(uid, ())):
                self._jobs.put_nowait(lambda name=name, key=key: self._collect(name, key))  # type: ignore[misc]
        else:
            self._living.add(uid)

    def _later(self, job: Job) -> None:
        """An owner may be on its way, for example in the same batch of a client: look again before believing that it is gone."""

        def due() -> None:
            self._timers.discard(timer)
            self._jobs.put_nowait(job)

        timer = asyncio.get_running_loop().call_later(ABSENT_OWNER_DELAY_S, due)
        self._timers.add(timer)

    def _follow_namespace(self, change: Change) -> None:
        namespace = self._cluster.store.collection(NAMESPACES).get(("", change.key[0]))
        if change.deleted and namespace is not None and "deletionTimestamp" in namespace.obj["metadata"]:
            self._jobs.put_nowait(lambda: self.finish_namespace(change.key[0]))

    def _follow_definition(self, change: Change) -> None:
        crd = change.record.obj
        group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
        if change.deleted:
            self._cluster.registry.remove(group, plural)
            self._cluster.store.drop(f"{group}/{plural}")
            return
        if change.before is None or change.before.obj["spec"] != crd["spec"]:
            self._cluster.registry.remove(group, plural)
            for resource in custom.resources(crd):
                self._cluster.registry.add(resource)
        if "deletionTimestamp" in crd["metadata"]:
            self._jobs.put_nowait(lambda: self.empty_definition(change.key[1]))

    def _follow_instances(self, collection: Collection, change: Change) -> None:
        group, _, plural = collection.name.partition("/")
        definition = self._cluster.store.collection(CRDS).get(("", f"{plural}.{group}"))
        if definition is not None and "deletionTimestamp" in definition.obj["metadata"] and not collection.records:
            self._jobs.put_nowait(lambda: self.empty_definition(definition.obj["metadata"]["name"]))

    # jobs

    def dependents(self, uid: str) -> list[tuple[Resource, Key]]:
        found = []
        for name, key in self._dependents.get(uid, ()):
            resource = self._cluster.registry.stored(name)
            if resource is not None:
                found.append((resource, key))
        return found

    def _collect(self, collection_name: str, key: Key) -> None:
        """Deletes a dependent all of whose owners are gone. Owners of kinds that are not served count as present."""
        resource = self._cluster.registry.stored(collection_name)
        record = self._cluster.store.collection(collection_name).get(key) if resource is not None else None
        if resource is None or record is None:
            return
        references = record.obj["metadata"].get("ownerReferences") or []
        if not references or any(self._lives(reference) for reference in references):
            return
        self._delete(resource, key, uid=record.obj["metadata"]["uid"])

    def _lives(self, reference: Obj) -> bool:
        known = self._cluster.registry.by_kind(reference.get("apiVersion", ""), reference.get("kind", ""))
        return known is None or reference.get("uid") in self._living

    def _delete(self, resource: Resource, key: Key, uid: str = "") -> None:
        try:
            self._cluster.delete(Target(resource, *key), DeleteOptions(uid=uid), SYSTEM)
        except ApiError as exc:
            if exc.code not in (404, 409):
                raise

    def _contents(self, namespace: str) -> Iterator[tuple[Resource, Key]]:
        for collection in tuple(self._cluster.store.collections.values()):
            members = collection.by_namespace.get(namespace)
            resource = self._cluster.registry.stored(collection.name) if members else None
            if resource is not None:
                yield from ((resource, (namespace, name)) for name in tuple(members or ()))

    def empty_namespace(self, name: str) -> None:
        for resource, key in self._contents(name):
            record = self._cluster.collection(resource).get(key)
            if record is not None and "deletionTimestamp" not in record.obj["metadata"]:
                self._delete(resource, key)
        self.finish_namespace(name)

    def finish_namespace(self, name: str) -> None:
        """Removes the namespace once nothing is left in it."""
        store = self._cluster.store
        namespaces = store.collection(NAMESPACES)
        record = namespaces.get(("", name))
        if record is None or "deletionTimestamp" not in record.obj["metadata"]:
            return
        if next(self._contents(name), None) is not None:
            return
        finished = {**record.obj, "metadata": dict(record.obj["metadata"]), "spec": {}}
        if finished["metadata"].get("finalizers"):
            if record.obj["spec"] != {}:
                store.put(namespaces, ("", name), finished)
            return
        store.remove(namespaces, ("", name), finished)

    def empty_definition(self, name: str) -> None:
        """Deletes the instances of a definition that is going away, then lets the definition go."""
        store = self._cluster.store
        record = store.collection(CRDS).get(("", name))
        if record is None:
            return
        spec = record.obj["spec"]
        instances = store.collection(f"{spec['group']}/{spec['names']['plural']}")
        resource = self._cluster.registry.stored(instances.name)
        if resource is not None:
            for key in tuple(instances.records):
                self._delete(resource, key)
        left = [one for one in record.obj["metadata"].get("finalizers") or [] if one != custom.CLEANUP]
        if instances.records or left == record.obj["metadata"].get("finalizers"):
            return
        finished = {**record.obj, "metadata": {**record.obj["metadata"], "finalizers": left}}
        definition = self._cluster.registry.stored(CRDS)
        if definition is not None:
            self._cluster.commit(definition, record, finished, SYSTEM)


def _owners(obj: Obj) -> set[str]:
    return {one["uid"] for one in obj["metadata"].get("ownerReferences") or [] if one.get("uid")}
