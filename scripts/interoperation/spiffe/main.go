// Judges by go-spiffe what Shoal made: judge FOLDER TRUST-DOMAIN
//
// FOLDER/bundle.json is a bundle of the trust domain, and each FOLDER/NAME.pem a chain with its key. Prints one JSON
// object: by name the SPIFFE id that was proven, or "refused: " and why.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func judged(path string, bundle *spiffebundle.Bundle) string {
	svid, err := x509svid.Load(path, path)
	if err != nil {
		return fmt.Sprintf("refused: %v", err)
	}
	id, _, err := x509svid.Verify(svid.Certificates, bundle)
	if err != nil {
		return fmt.Sprintf("refused: %v", err)
	}
	return id.String()
}

func main() {
	domain := spiffeid.RequireTrustDomainFromString(os.Args[2])
	bundle, err := spiffebundle.Load(domain, filepath.Join(os.Args[1], "bundle.json"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	paths, err := filepath.Glob(filepath.Join(os.Args[1], "*.pem"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	found := map[string]string{}
	for _, path := range paths {
		found[strings.TrimSuffix(filepath.Base(path), ".pem")] = judged(path, bundle)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		os.Exit(1)
	}
}
