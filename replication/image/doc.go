// Package image makes thin archives of container images: an OCI archive as
// Podman exports it, with the layers left out that the peer already has.
//
// Podman loads such an archive, with the same image ID, where each layer that
// is left out is present in its storage, and refuses it cleanly where one is
// not (tried with 4.3.1 and 5.4.2). That holds for uncompressed layers only:
// whether a compressed layer is recognised depends on the receiver's blob
// cache. So only uncompressed layers are ever left out, and an export should
// be made with uncompressed layers.
//
// [Thin] writes, [Inspect] checks. Both read the archive as foreign bytes: on
// the receiving node it comes from a peer, and whatever it says is compared with
// its digests before anybody believes it. The layout is read from the archive's
// own index, never from file names, and an archive that holds anything but an
// OCI layout is refused.
//
// [Vault] keeps what arrived, layer by layer, for the day when a power cut has damaged an
// image in Podman's storage, which syncs nothing.
package image
