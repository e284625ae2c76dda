/** Labels of containerd's that mean something to this door, and where its snapshots are kept. */

/** Spaces of this door begin so; the name of the snapshotter follows. */
export const SPACE_PREFIX = 'containerd/';
/** Which chain a snapshot is to be; containerd looks for it by this label. */
export const REF = 'containerd.io/snapshot.ref';
/** The CRI plugin's: the digest of the blob that a snapshot is unpacked from. */
export const LAYER_BLOB = 'containerd.io/snapshot/cri.layer-digest';
/** `container:host:size`, several with commas: the user namespace that a snapshot is mounted for. */
export const UID_MAPPING = 'containerd.io/snapshot/uidmapping';
export const GID_MAPPING = 'containerd.io/snapshot/gidmapping';
/** At a blob: the diff ID of what it holds. */
export const UNCOMPRESSED = 'containerd.io/uncompressed';
