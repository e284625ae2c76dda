#!/bin/sh
# Installs fsck.erofs and dump.erofs of erofs-utils 1.8 into /usr/local, from Debian 13, with the libraries they need in a
# directory of their own. Debian 12 has 1.5, which does not know blocks of 512 bytes. Tests use them as judges.
set -eu
suite=trixie
home=/usr/local/lib/erofs-utils
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# The mirror that this machine takes its packages from.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' | grep -v security | head -n 1)
echo "deb [signed-by=$keyring] $mirror $suite main" >"$work/sources.list"
chmod -R a+rX "$work"

apt() {
  apt-get --quiet=2 -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root "$@"
}

apt update
cd "$work/packages"
apt download erofs-utils libc6 libdeflate0 liblz4-1 liblzma5 libpcre2-8-0 libselinux1 libuuid1 libxxhash0 libzstd1 zlib1g
rm -rf "$home"
mkdir -p "$home"
for package in *.deb; do dpkg-deb --extract "$package" "$home"; done
libraries=$(dirname "$(find "$home/usr/lib" -name libc.so.6)")
loader=$(find "$libraries" -name 'ld-linux*')
for program in fsck.erofs dump.erofs; do
  printf '#!/bin/sh\nexec %s --library-path %s %s/usr/bin/%s "$@"\n' "$loader" "$libraries" "$home" "$program" \
    >"/usr/local/bin/$program"
  chmod 755 "/usr/local/bin/$program"
done
